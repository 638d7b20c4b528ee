package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// OpenIndex opens what was kept as a layer's index under a name, or fails with fs.ErrNotExist. As long as it is open nobody evicts it.
// Nothing is synced to the disk: after a power failure an index may be damaged, and who reads it must find that out.
func (c *Cache) OpenIndex(name string) (*os.File, error) {
	path, err := c.layerPath("index", name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the index of a layer: %w", err)
	}
	shareLock(file)
	touch(path, file)
	return file, nil
}

// PutIndex keeps the content of a file, from its start, under a name: whole, or not at all. It is a copy, which costs nothing
// where the file system can share blocks, so that it does not matter what becomes of the file, or where it is. On a full disk
// PutIndex makes room, once; unix.ENOSPC if that was not enough. The file's offset is where it ends after that.
func (c *Cache) PutIndex(name string, from *os.File) error {
	path, err := c.layerPath("index", name)
	if err != nil {
		return err
	}
	n, err := c.copyIndex(path, from)
	if errors.Is(err, unix.ENOSPC) && c.space.free(sizeOf(from)+block) == nil {
		n, err = c.copyIndex(path, from)
	}
	if err != nil {
		return fmt.Errorf("keep the index of a layer: %w", err)
	}
	c.grew(n + block)
	return nil
}

func (c *Cache) copyIndex(path string, from *os.File) (n int64, err error) {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	err = c.replace(path, func(w io.Writer) error {
		n, err = io.Copy(w, from)
		return err
	})
	return n, err
}

// sizeOf is how long a file is, as far as that can be known.
func sizeOf(file *os.File) int64 {
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Spans opens the file that keeps single spans of a blob under a name, at the offsets they have there, for reading and writing.
// It is made where there is none. While it is open nobody removes it, but it may be cut to nothing at any moment, when the directory
// takes more than it may: who reads it must verify, and need not care.
func (c *Cache) Spans(name string) (*os.File, error) {
	path, err := c.layerPath("spans", name)
	if err != nil {
		return nil, err
	}
	file, err := c.openSpans(path)
	if err != nil {
		return nil, fmt.Errorf("open the spans of a layer: %w", err)
	}
	touch(path, file)
	if err := c.watch(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// openSpans opens a file of spans that has its name as long as it is open: what is written to one that is just being evicted would take
// room that nobody knows of.
func (c *Cache) openSpans(path string) (*os.File, error) {
	for range int(patience / poll) {
		file, err := c.create(func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) })
		if err != nil {
			return nil, err
		}
		if shareLock(file) && samePath(file, path) {
			return file, nil
		}
		file.Close()
		time.Sleep(poll)
	}
	return nil, fmt.Errorf("%s: somebody else has had it locked for too long", path)
}

// Temp makes a file that has no name and goes when it is closed. What it takes is not counted.
func (c *Cache) Temp() (*os.File, error) {
	file, err := c.temp()
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return file, nil
}

// layerPath is where something of a layer is kept. Names consist of lower case letters, digits and dashes.
func (s store) layerPath(folder, name string) (string, error) {
	const most = 200 // as much as every file system takes
	if name == "" || len(name) > most || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", fmt.Errorf("the name %q for a layer: %w", name, image.ErrInvalid)
	}
	return filepath.Join(s.dir, "layers", folder, name), nil
}

// look is how often it is looked how much span files have grown.
const look = 2 * time.Second

// growing are the span files that this process has open, each with what it took on disk when it was looked at last. Whoever has them
// writes to them without asking, so that looking is the only way to know.
type growing struct {
	mu    sync.Mutex
	files map[*os.File]int64
}

// watch counts what a file grows by as long as it is open.
func (c *Cache) watch(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	c.growing.mu.Lock()
	defer c.growing.mu.Unlock()
	if c.ctx.Err() != nil {
		return errClosed
	}
	if len(c.growing.files) == 0 {
		err = c.spawn(c.watching)
	}
	if err == nil {
		c.growing.files[file] = diskUsage(info)
	}
	return err
}

// watching goes on while there is something to watch.
func (c *Cache) watching() {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for c.countGrowth() {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
}

// countGrowth counts what the files grew by since the last time, and tells whether any of them is open still.
func (c *Cache) countGrowth() bool {
	grown, open := c.growing.look()
	if grown > 0 {
		c.grew(grown)
	}
	return open
}

// look is what all files grew by. One that was closed is looked at for the last time. A file that was opened twice counts
// twice: that only has the cache look at the disk sooner.
func (g *growing) look() (grown int64, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for file, before := range g.files {
		_, closed := file.Stat()
		if info, err := os.Stat(file.Name()); err == nil {
			g.files[file] = diskUsage(info)
			grown += max(0, g.files[file]-before)
		}
		if closed != nil {
			delete(g.files, file)
		}
	}
	return grown, len(g.files) > 0
}
