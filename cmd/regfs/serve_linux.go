package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/fs"
	"github.com/regfs/regfs/fs/fuse"
	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
	"github.com/regfs/regfs/registry"
)

// serve mounts, tells the starter and the service manager, and serves until somebody unmounts or a signal ends it.
func serve(c *config, starter *starter) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel}))
	unlock, err := lock(c.mountpoint)
	if err != nil {
		return fmt.Errorf("mount %s: %w", c.mountpoint, err)
	}
	defer unlock()
	s, err := newService(c, log)
	if err != nil {
		return err
	}
	defer s.close()
	// From here on a signal does not kill, and leave a dead mount: it ends the serving, or the mount as soon as it is there.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if starter.connected() {
		defer reopenLog(c.logFile, log)()
	} else {
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	server, err := attach(c, s.tree, log)
	if err != nil {
		return err
	}
	_ = unlock()
	log.Info("mounted", "at", c.mountpoint, "version", release())
	if starter.ready() != nil {
		log.Info("nobody waits for the mount any more")
		stop()
		return detach(c, server, log)
	}
	notify(log, daemon.SdNotifyReady)
	return untilDone(ctx, stop, c, server, log)
}

// reopenLog has SIGHUP open the log file anew, as logrotate(8) wants it, until stop is called.
func reopenLog(name string, log *slog.Logger) (stop func()) {
	hangups, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range hangups {
			if err := redirect(name); err != nil {
				log.Warn("the log goes on where it was", "error", err)
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-done
	}
}

// redirect makes a log file the standard output and error.
func redirect(name string) error {
	f, err := openLog(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(unix.Dup3(int(f.Fd()), 1, 0), unix.Dup3(int(f.Fd()), 2, 0))
}

// service is all that stands behind a mount.
type service struct {
	store  *cache.Cache
	client *registry.Client
	layers *layer.Layers
	staged *stage.Store // nil for a mount that nobody writes to
	tree   *fs.Tree
}

func newService(c *config, log *slog.Logger) (*service, error) {
	store, err := cache.New(cache.Options{
		Dir: c.cacheDir, Size: c.cacheSize, TTL: c.tagTTL, Timeout: c.timeout, Offline: c.offline, Log: log,
	})
	if err != nil {
		return nil, err
	}
	counts := newMetrics(store)
	s := &service{store: store, client: c.newClient(counts.count)}
	at := &places{registry: store.Through(s.client.Host), timeout: c.timeout, daemon: c.daemonHost}
	shown, err := at.show(context.Background(), &c.sources, c.readOnly)
	if err != nil {
		_ = s.client.Close()
		_ = s.store.Close()
		return nil, err
	}
	s.layers = layer.New(layer.Options{Store: store, Blobs: store, Report: func(d image.Descriptor, problem string) {
		if s.tree.ReportLayer(d, problem) {
			log.Warn("layer", "digest", d.Digest, "problem", problem)
		}
	}})
	if !c.readOnly {
		s.staged, err = stage.Open(stage.Options{Dir: c.stageDir, Host: shown.Open, Blobs: store, Log: log})
	}
	s.tree = fs.New(fs.Options{
		Places: shown, Hosts: store.Hosts, Blobs: store, Layers: s.layers, Whiteouts: c.whiteouts, Platform: c.platform, TagTTL: c.tagTTL,
		Stage: s.staged, AllowDelete: c.allowDelete, Control: controlFiles(c, store, counts),
	})
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// close ends what the mount had going. What is written and not pushed stays on the disk.
func (s *service) close() {
	_ = s.tree.Close()
	if s.staged != nil {
		_ = s.staged.Close()
	}
	_ = s.layers.Close()
	_ = s.client.Close()
	_ = s.store.Close()
}

// attach mounts the tree. The mountpoint is locked.
func attach(c *config, tree *fs.Tree, log *slog.Logger) (*fuse.Server, error) {
	var server *fuse.Server
	words, err := listen(func() (err error) {
		server, err = fuse.Mount(tree, c.mountpoint, fuse.Options{AllowOther: c.allowOther, Options: c.options, ReadOnly: c.readOnly, Log: log})
		return err
	})
	if err != nil {
		return nil, explain(c, err, words)
	}
	return server, nil
}

// listen runs fn and catches what it says on stderr, which is where fusermount3 tells its reasons. A file in memory takes it:
// a pipe would never end if a program that fn started stayed.
func listen(fn func() error) (words string, err error) {
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return "", fn()
	}
	f := os.NewFile(uintptr(fd), "stderr")
	defer f.Close()
	stderr := os.Stderr
	os.Stderr = f
	err = fn()
	os.Stderr = stderr
	said, _ := io.ReadAll(io.NewSectionReader(f, 0, 4096)) // what can't be read was not said
	return strings.Join(strings.Fields(string(said)), " "), err
}

// explain says in a mount's error what to do about it. What fusermount3 said is better than that it failed.
func explain(c *config, err error, words string) error {
	switch {
	case words != "":
		return fmt.Errorf("mount %s: %s", c.mountpoint, words)
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: mounting takes CAP_SYS_ADMIN and /dev/fuse (for a container: --cap-add SYS_ADMIN --device /dev/fuse)", err)
	case errors.Is(err, unix.EINVAL) && len(c.options) > 0:
		return fmt.Errorf("%w: the kernel does not know all of the options %s", err, strings.Join(c.options, ","))
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: this kernel has no FUSE; load it with 'modprobe fuse'", err)
	}
	return err
}

// untilDone waits for the end of the mount, from outside or by a signal. A second signal kills.
func untilDone(ctx context.Context, stop func(), c *config, server *fuse.Server, log *slog.Logger) error {
	gone := make(chan struct{})
	go func() {
		server.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		log.Info("unmounted")
		notify(log, daemon.SdNotifyStopping)
		return nil
	case <-ctx.Done():
	}
	stop()
	notify(log, daemon.SdNotifyStopping)
	return detach(c, server, log)
}

// detach unmounts, now. Whoever still uses the mount gets errors from now on: the daemon ends.
func detach(c *config, server *fuse.Server, log *slog.Logger) error {
	err := server.Unmount()
	if err == nil {
		log.Info("unmounted")
		return nil
	}
	log.Warn("the mount is in use, unmounting it all the same", "reason", err)
	if mounted, e := mountAt(c.mountpoint); e == nil && mounted != fsType {
		return nil // somebody was faster
	}
	if err := unmount(c.mountpoint, true); err != nil {
		return fmt.Errorf("unmount %s: %w", c.mountpoint, err)
	}
	return nil
}

// notify tells the service manager, if there is one (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}
