package sif

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/internal/disk"
	"github.com/regfs/regfs/layout/internal/files"
)

// program turns a squashfs into a tar.
const program = "sqfs2tar"

// convert makes the layer, in a file without a name: all that the partition has, and a script, if there is one.
func (s *sif) convert(ctx context.Context, script []byte) (*os.File, error) {
	converter, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("its squashfs can't be read without %s, of the package squashfs-tools-ng: %w: %w",
			program, err, image.ErrUnsupported)
	}
	squash, err := s.copy(ctx)
	if err != nil {
		return nil, err
	}
	defer squash.Close()
	out, err := disk.Temp(s.options.TempDir)
	if err != nil {
		return nil, err
	}
	err = run(ctx, converter, squash, &limited{file: out, room: s.options.MaxSize})
	if err == nil && script != nil {
		err = appendScript(ctx, out, script, s.modified)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// copy takes the partition out of the file, since the program reads none that begins in the middle.
func (s *sif) copy(ctx context.Context) (*os.File, error) {
	const magic = "hsqs"
	var first [len(magic)]byte
	if _, err := s.file.ReadAt(first[:], s.partition.off); err != nil || string(first[:]) != magic || s.partition.size < int64(len(magic)) {
		return nil, fmt.Errorf("its primary partition is no squashfs: %w", image.ErrInvalid)
	}
	out, err := disk.Temp(s.options.TempDir)
	if err != nil {
		return nil, err
	}
	part := io.NewSectionReader(s.file, s.partition.off, s.partition.size)
	n, err := io.Copy(out, disk.Reader(ctx, part))
	if err == nil && n != s.partition.size {
		err = fmt.Errorf("its primary partition ends after %d bytes of %d: %w", n, s.partition.size, image.ErrInvalid)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// bounded runs a program with no more than 4 GiB of memory, since it keeps all names of a squashfs in it, which may be very many.
const bounded = `ulimit -v 4194304 2>/dev/null; exec "$@"`

// run runs the program on a squashfs. What it says of a damaged one is in the error.
func run(ctx context.Context, converter string, squash *os.File, out *limited) error {
	const patience = 5 * time.Second // for what it left behind to let go of its output
	var said tail
	// The root is kept as "./", or its owner, mode and attributes would be lost.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", bounded, "sh", converter, "--root-becomes", ".", "/dev/fd/3")
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = []*os.File{squash}, out, &said, patience
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case out.err != nil:
		return out.err
	case errors.As(err, new(*exec.ExitError)):
		return fmt.Errorf("its squashfs can't be read: %s: %s: %w: %w", program, files.Clean(said.String()), err, image.ErrInvalid)
	}
	return err
}

// limited is a file that takes so much and no more. Its first error stays.
type limited struct {
	file *os.File
	room int64
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.room -= int64(len(p)); l.room < 0 && l.err == nil {
		l.err = fmt.Errorf("its file system has more than is to be unpacked: %w", image.ErrTooLarge)
	}
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.file.Write(p)
	l.err = err
	return n, err
}

// tail is the end of what was written to it.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 1000
	t.end = append(t.end, p[max(0, len(p)-most):]...)
	t.end = t.end[max(0, len(t.end)-most):]
	return len(p), nil
}

// String is the last line.
func (t *tail) String() string {
	all := strings.TrimSpace(string(t.end))
	return all[strings.LastIndex(all, "\n")+1:]
}

// appendScript puts the script at the end of the tar, where it counts and not what the partition has of that name.
func appendScript(ctx context.Context, out *os.File, script []byte, modified time.Time) error {
	end, hasFolder, err := endOf(ctx, out)
	if err != nil {
		return err
	}
	if _, err := out.Seek(end, io.SeekStart); err != nil {
		return err
	}
	if err := out.Truncate(end); err != nil {
		return err
	}
	w := tar.NewWriter(out)
	if !hasFolder {
		err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + path.Dir(scriptName) + "/", Mode: 0o755, ModTime: modified})
	}
	if err == nil {
		err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + scriptName, Mode: 0o755, ModTime: modified, Size: int64(len(script))})
	}
	if err == nil {
		_, err = w.Write(script)
	}
	return errors.Join(err, w.Close())
}

// endOf finds where the tar's entries end, and tells whether there is a folder for the script among them.
func endOf(ctx context.Context, out *os.File) (end int64, hasFolder bool, err error) {
	const trailer = 1024 // the zeros that end a tar
	info, err := out.Stat()
	if err != nil {
		return 0, false, err
	}
	section := io.NewSectionReader(out, 0, info.Size())
	for r := tar.NewReader(section); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, false, fmt.Errorf("read what %s wrote: %w", program, err)
		}
		if path.Clean(h.Name) == path.Dir(scriptName) {
			hasFolder = h.Typeflag == tar.TypeDir
		}
	}
	end, err = section.Seek(0, io.SeekCurrent)
	return max(end-trailer, 0), hasFolder, err
}
