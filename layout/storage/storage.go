//go:build linux && (!cgo || exclude_graphdriver_btrfs)

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.podman.io/storage"
	"go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/reexec"

	"github.com/regfs/regfs/image"
)

// Store is a containers-storage. It is safe for concurrent use.
//
// The library can't be told to stop waiting for a lock that another process holds. It is asked from a goroutine, which stays behind
// when a context ends first, and ends when the lock is given back.
type Store struct {
	lib storage.Store
	// follows tells that a layer can be unpacked while it still comes: the driver does it aside, without the store's locks.
	follows bool
}

var _ image.Place = (*Store)(nil)

// patience is how long Close waits for what others hold up.
const patience = 10 * time.Second

// marker is a file that every store has.
const marker = "storage.lock"

// Init has to be the first thing that main does, and TestMain where layers are unpacked: the library unpacks layers in processes of
// their own, for which it starts this program again. If it is true, this was such a process, and main has to return.
func Init() bool { return reexec.Init() }

// Open opens a store that is there. spec is what stands in the brackets of containers-storage:[driver@graphroot+runroot:options]
// (containers-transports(5)), all but the graphroot may be missing; "" is the store of storage.conf. ErrNotFound where there is no such
// folder, ErrInvalid where it is no store, ErrDenied to a user without root outside of a user namespace.
func Open(ctx context.Context, spec string) (*Store, error) {
	return open(ctx, spec, func(options storage.StoreOptions) error {
		_, err := os.Stat(filepath.Join(options.GraphRoot, marker))
		if _, noFolder := os.Stat(options.GraphRoot); noFolder != nil {
			return noFolder
		}
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no container storage: it has no %s: %w", marker, image.ErrInvalid)
		}
		return err
	})
}

// Create opens a store, and makes it where there is none. A folder with anything else in it is ErrInvalid.
func Create(ctx context.Context, spec string) (*Store, error) {
	return open(ctx, spec, func(options storage.StoreOptions) error {
		entries, err := os.ReadDir(options.GraphRoot)
		if errors.Is(err, os.ErrNotExist) || len(entries) == 0 {
			return nil
		}
		if _, none := os.Stat(filepath.Join(options.GraphRoot, marker)); err == nil && none != nil {
			err = fmt.Errorf("no container storage, and not empty: it has %q and no %s: %w", entries[0].Name(), marker, image.ErrInvalid)
		}
		return err
	})
}

func open(ctx context.Context, spec string, check func(storage.StoreOptions) error) (*Store, error) {
	s, err := openChecked(ctx, spec, check)
	if err != nil {
		return nil, fmt.Errorf("open containers-storage:[%s]: %w", spec, translate(err))
	}
	return s, nil
}

func openChecked(ctx context.Context, spec string, check func(storage.StoreOptions) error) (*Store, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("only root, or a user in a user namespace, can use a container storage: run podman unshare regfs …: %w", image.ErrDenied)
	}
	options, err := parse(spec)
	if err == nil {
		err = check(options)
	}
	if err != nil {
		return nil, err
	}
	return ask(ctx, func() (*Store, error) {
		lib, err := storage.GetStore(options)
		if errors.Is(err, graphdriver.ErrNotSupported) {
			err = fmt.Errorf("there is no storage driver %q that works here: %w", options.GraphDriverName, image.ErrUnsupported)
		}
		if err != nil {
			return nil, err
		}
		// A lock that another process holds is met here, and not in the midst of a copy.
		if _, err := lib.Layers(); err != nil {
			return nil, err
		}
		driver, err := lib.GraphDriver()
		_, follows := driver.(graphdriver.ApplyDiffStaging)
		return &Store{lib, follows}, err
	})
}

// parse reads [driver@]graphroot[+runroot][:option[,option…]], as containers/image does.
func parse(spec string) (storage.StoreOptions, error) {
	defaults, err := storage.DefaultStoreOptions()
	if spec == "" || err != nil {
		return defaults, err
	}
	var o storage.StoreOptions
	place, hasDriver := spec, false
	if o.GraphDriverName, place, hasDriver = strings.Cut(spec, "@"); !hasDriver {
		o.GraphDriverName, place = "", spec
	} else if o.GraphDriverName == "" {
		return o, fmt.Errorf("a driver's name is missing before the @: %w", image.ErrInvalid)
	}
	place, list, hasOptions := strings.Cut(place, ":")
	if hasOptions {
		o.GraphDriverOptions = strings.Split(list, ",")
	}
	o.GraphRoot, o.RunRoot, _ = strings.Cut(place, "+")
	if o.RunRoot == "" {
		o.RunRoot = defaults.RunRoot
	}
	for _, path := range []string{o.GraphRoot, o.RunRoot} {
		if !filepath.IsAbs(path) {
			return o, fmt.Errorf("%q is no absolute path: %w", path, image.ErrInvalid)
		}
	}
	return o, nil
}

// Close gives up what the store has mounted for itself, unless others use it. What is being read stays readable.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := ask(ctx, func() ([]string, error) { return s.lib.Shutdown(false) })
	if errors.Is(err, storage.ErrLayerUsedByContainer) {
		return nil
	}
	return s.failed("close", "", err)
}

// ask has the library do fn, for as long as the context goes.
func ask[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	return askFor(ctx, fn, func(T) {})
}

// askFor is ask, where what comes too late has to be given back.
func askFor[T any](ctx context.Context, fn func() (T, error), giveBack func(T)) (T, error) {
	type answer struct {
		got T
		err error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	answers := make(chan answer, 1)
	go func() {
		got, err := fn()
		answers <- answer{got, err}
	}()
	select {
	case a := <-answers:
		return a.got, a.err
	case <-ctx.Done():
		go func() {
			if a := <-answers; a.err == nil {
				giveBack(a.got)
			}
		}()
		return none, late(ctx.Err())
	}
}

// late says what keeps a store from answering.
func late(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it did not answer in time, another process may hold its locks: %w", err)
	}
	return err
}
