package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// poll is how often another process is looked after that fetches the same.
const poll = 20 * time.Millisecond

// transfer brings the blob into the store: it goes on where the last one, of whatever process, stopped.
func (f *fill) transfer(ctx context.Context) error {
	file, err := f.acquire(ctx)
	if err != nil || file == nil {
		return err
	}
	err = f.append(ctx, file)
	if errors.Is(err, image.ErrDigest) || errors.Is(err, unix.ENOSPC) {
		os.Remove(f.c.partialPath(f.d))
	}
	if err == nil {
		err = move(f.c.partialPath(f.d), f.c.blobPath(f.d.Digest))
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", f.d.Digest, err)
	}
	shareLock(file)
	f.c.grew(f.d.Size)
	return nil
}

// acquire is the partial file, locked; or nil when the blob turned out to be complete. As long as another process fetches
// it, readers get what that one wrote.
func (f *fill) acquire(ctx context.Context) (*os.File, error) {
	path := f.c.partialPath(f.d)
	for {
		file, err := f.c.partial(f.d)
		if err != nil {
			return nil, fmt.Errorf("fetch %s: %w", f.d.Digest, err)
		}
		if err := f.adopt(file); err != nil {
			return nil, err
		}
		mine, err := f.follow(ctx, file, path)
		if err != nil {
			return nil, err
		}
		done, err := f.finished(file)
		if done || err != nil {
			if mine {
				os.Remove(path)
			}
			return nil, err
		}
		if mine {
			return file, nil
		}
	}
}

// follow waits until file is ours, or is no longer the partial file.
func (f *fill) follow(ctx context.Context, file *os.File, path string) (mine bool, err error) {
	last := int64(-1)
	for {
		locked := lock(file)
		if !samePath(file, path) {
			return false, nil
		}
		if locked {
			return true, nil
		}
		if info, err := file.Stat(); err == nil && info.Size() != last {
			last = info.Size()
			f.publish(min(last, f.d.Size))
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(poll):
		}
	}
}

// finished looks whether another process completed the blob, and takes it from the store then.
func (f *fill) finished(file *os.File) (bool, error) {
	blob, err := f.c.openBlob(f.d)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("fetch %s: %w", f.d.Digest, err)
	}
	if samePath(file, f.c.blobPath(f.d.Digest)) {
		blob.Close()
		shareLock(file)
		return true, nil
	}
	return true, f.adopt(blob)
}

// append makes file the whole blob, and verifies it.
func (f *fill) append(ctx context.Context, file *os.File) error {
	sum := newHasher(f.d.Digest.Algorithm())
	off, err := f.rehash(ctx, file, sum)
	if err == nil && off < f.d.Size {
		err = f.fetch(ctx, file, off, sum)
	}
	got := sum.finish()
	if err == nil && got != f.d.Digest.String() {
		err = fmt.Errorf("the content has the digest %s: %w", got, image.ErrDigest)
	}
	return err
}

// rehash hashes what is on disk already, and says how much it is.
func (f *fill) rehash(ctx context.Context, file *os.File, sum *hasher) (int64, error) {
	off := int64(0)
	for ctx.Err() == nil {
		buf := sum.buffer()
		n, err := file.ReadAt(buf, off)
		sum.add(buf[:n])
		off += int64(n)
		f.publish(off)
		if err == io.EOF {
			return off, nil
		}
		if err != nil {
			return off, err
		}
	}
	return off, ctx.Err()
}

// fetch appends what is missing from off on.
func (f *fill) fetch(ctx context.Context, file *os.File, off int64, sum *hasher) error {
	r, err := f.source(withFill(ctx), off)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		buf := sum.buffer()
		n, err := r.Read(buf)
		if werr := f.write(file, buf[:n], off); werr != nil {
			return werr
		}
		sum.add(buf[:n])
		off += int64(n)
		switch {
		case err == io.EOF && off < f.d.Size:
			return fmt.Errorf("%d bytes came instead of %d: %w", off, f.d.Size, image.ErrDigest)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// source opens the blob at off. Where that can't be, it reads from the start and skips what is here already.
func (f *fill) source(ctx context.Context, off int64) (io.ReadCloser, error) {
	r, err := f.src.FetchRange(ctx, f.d, off, f.d.Size-off)
	if !errors.Is(err, image.ErrUnsupported) {
		return r, err
	}
	if r, err = f.src.Fetch(ctx, f.d); err != nil {
		return nil, err
	}
	if _, err := io.CopyN(skipper{f}, r, off); err != nil {
		r.Close()
		if err == io.EOF {
			err = fmt.Errorf("less than %d bytes came: %w", off, image.ErrDigest)
		}
		return nil, err
	}
	return r, nil
}

// skipper drops what is written to it, and counts it as progress.
type skipper struct{ f *fill }

func (s skipper) Write(p []byte) (int, error) {
	s.f.moved()
	return len(p), nil
}

// write appends what came to the file, for the readers to have. On a full disk it makes room, once.
func (f *fill) write(file *os.File, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if off+int64(len(p)) > f.d.Size {
		return fmt.Errorf("more than %d bytes came: %w", f.d.Size, image.ErrDigest)
	}
	n, err := file.WriteAt(p, off)
	if errors.Is(err, unix.ENOSPC) && f.c.space.free(f.d.Size-off) == nil {
		_, err = file.WriteAt(p[n:], off+int64(n))
	}
	if err != nil {
		return err
	}
	f.c.bytesFetched.Add(int64(len(p)))
	f.publish(off + int64(len(p)))
	return nil
}

type fillMark struct{}

// withFill marks the requests of a transfer, so that a Source of this cache answers them from the place it decorates,
// and not from the transfer itself.
func withFill(ctx context.Context) context.Context { return context.WithValue(ctx, fillMark{}, true) }

func isFill(ctx context.Context) bool { return ctx.Value(fillMark{}) != nil }
