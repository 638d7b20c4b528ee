package layer

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/regfs/regfs/image"
)

const (
	// maxCounts is how many files' link counts are remembered.
	maxCounts = 1 << 16
	// maxChecked is how many names of one file are looked at. Those beyond are taken to be seen.
	maxChecked = 1 << 14
)

// counts remember how many names are seen of the files with more than one. When there are too many, it begins anew.
type counts struct {
	mu   sync.Mutex
	seen map[uint64]uint32
}

// get remembers the count for an inode number, or makes it. Two at once may both make it.
func (c *counts) get(ino uint64, count func() (uint32, error)) (uint32, error) {
	c.mu.Lock()
	n, ok := c.seen[ino]
	c.mu.Unlock()
	if ok {
		return n, nil
	}
	n, err := count()
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || len(c.seen) >= maxCounts {
		c.seen = map[uint64]uint32{}
	}
	c.seen[ino] = n
	return n, nil
}

// countSeen counts the names for which "is" tells that it is the file. What it does not find is not counted.
func countSeen(ctx context.Context, names iter.Seq2[string, error], is func(path string) (bool, error)) (uint32, error) {
	var seen, checked uint32
	for path, err := range names {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		if checked++; checked > maxChecked {
			seen++
			continue
		}
		ok, err := is(path)
		if err != nil && !errors.Is(err, image.ErrNotFound) {
			return 0, err
		}
		if ok {
			seen++
		}
	}
	return seen, nil
}
