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
// takes more than it may: who reads it must verify. What it grows by is counted when it is opened the next time, so it is
// not to be kept open for long.
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
	if n := c.spans.grown(file); n > 0 {
		c.grew(n)
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

// Temp makes a file that has no name and goes when it is closed. What it takes is not counted. On a disk that is nearly full it makes some room
// first: when the file is written to, nobody can.
func (c *Cache) Temp() (*os.File, error) {
	if err := c.space.spare(); err != nil {
		c.log.Warn("cache: make room", "err", err)
	}
	file, err := c.temp()
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := ignoreGone(os.Remove(file.Name())); err != nil {
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

// spanFiles are what span files took on disk when they were opened last. They are written to by who has them, without a word.
type spanFiles struct {
	mu    sync.Mutex
	bytes map[string]int64
}

// maxSpanFiles is how many are remembered. Of others some growth is only found by the next look at the disk.
const maxSpanFiles = 1000

// grown is what a file takes on disk more than when it was opened last.
func (s *spanFiles) grown(file *os.File) int64 {
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	now := diskUsage(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.bytes[file.Name()]
	if len(s.bytes) >= maxSpanFiles && !known {
		clear(s.bytes)
	}
	s.bytes[file.Name()] = now
	if !known {
		return 0
	}
	return max(0, now-before)
}
