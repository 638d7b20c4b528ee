package layer

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
)

// runMemory is how much of what is sorted is in memory at once, in bytes; more goes to the disk in sorted runs.
const runMemory = 8 << 20

// maxRuns is how many runs there may be: each takes a buffer of mergeBuffer bytes when they are merged.
const (
	maxRuns     = 256
	mergeBuffer = 32 << 10
)

// item is what an archive's entry says about a path: either that something is there, or that a hard link there is meant by another path.
type item struct {
	path string
	// seq is which entry of the archive it was, from 1 on.
	seq  uint32
	kind itemKind
	// hops is how many symbolic links led to the path: see moves.
	hops uint8
	// data is the record of an inode, or a hard link's target.
	data []byte
}

type itemKind byte

const (
	isOther  itemKind = iota // an inode's record
	isFolder                 // a folder's
	isLink                   // a hard link
	isMeant                  // somebody links to this path
)

// sorter sorts items by path, the parent before its children and these by name, and items of one path in the order of the archive.
// It takes bounded memory.
type sorter struct {
	store Store
	arena []byte
	items []span32 // where in arena
	runs  []*os.File
}

// span32 is a part of an arena.
type span32 struct{ off, end uint32 }

// add takes an item; its fields may be used again.
func (s *sorter) add(it item) error {
	if len(s.arena)+len(it.path)+len(it.data) > runMemory-64 && len(s.items) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	off := len(s.arena)
	s.arena = appendItem(s.arena, it)
	s.items = append(s.items, span32{uint32(off), uint32(len(s.arena))})
	return nil
}

// appendItem encodes an item. Slashes become zeros, which no name has, and so sort before all else: what is in a folder comes
// right behind it.
func appendItem(b []byte, it item) []byte {
	b = binary.AppendUvarint(b, uint64(len(it.path)))
	b = append(b, strings.ReplaceAll(it.path, "/", "\x00")...)
	b = binary.BigEndian.AppendUint32(b, it.seq)
	b = append(b, byte(it.kind)|it.hops<<2)
	b = binary.AppendUvarint(b, uint64(len(it.data)))
	return append(b, it.data...)
}

// sort sorts what is in memory.
func (s *sorter) sort() {
	slices.SortFunc(s.items, func(a, b span32) int { return compare(s.arena[a.off:a.end], s.arena[b.off:b.end]) })
}

func compare(a, b []byte) int {
	pathA, restA := cutPath(a)
	pathB, restB := cutPath(b)
	return cmp.Or(bytes.Compare(pathA, pathB), bytes.Compare(restA[:4], restB[:4]))
}

func cutPath(b []byte) (path, rest []byte) {
	n, used := binary.Uvarint(b)
	return b[used : used+int(n)], b[used+int(n):]
}

// spill writes a sorted run to the disk.
func (s *sorter) spill() error {
	if len(s.runs) == maxRuns {
		return fmt.Errorf("names of more than %d MiB: %w", maxRuns*runMemory>>20, errTooMuch)
	}
	file, err := s.store.Temp()
	if err != nil {
		return local(err)
	}
	s.runs = append(s.runs, file)
	s.sort()
	w := bufio.NewWriterSize(file, 256<<10)
	for _, it := range s.items {
		if _, err := w.Write(s.arena[it.off:it.end]); err != nil {
			return local(err)
		}
	}
	s.arena, s.items = s.arena[:0], s.items[:0]
	return local(w.Flush())
}

// all are the items in order. They are valid until the next one.
func (s *sorter) all() iter.Seq2[item, error] {
	if len(s.runs) == 0 {
		return s.fromMemory()
	}
	return func(yield func(item, error) bool) {
		if err := s.merge(yield); err != nil {
			yield(item{}, err)
		}
	}
}

func (s *sorter) fromMemory() iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		s.sort()
		for _, it := range s.items {
			if !yield(decodeItem(s.arena[it.off:it.end]), nil) {
				return
			}
		}
	}
}

func decodeItem(b []byte) item {
	path, rest := cutPath(b)
	it := item{path: string(bytes.ReplaceAll(path, []byte{0}, []byte{'/'})), seq: binary.BigEndian.Uint32(rest), kind: itemKind(rest[4] & 3), hops: rest[4] >> 2}
	n, used := binary.Uvarint(rest[5:])
	it.data = rest[5+used : 5+used+int(n)]
	return it
}

// merge gives the items of all runs in order.
func (s *sorter) merge(yield func(item, error) bool) error {
	if len(s.items) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.arena, s.items = nil, nil
	var h runHeap
	for _, file := range s.runs {
		r := &run{r: bufio.NewReaderSize(io.NewSectionReader(file, 0, 1<<62), mergeBuffer)}
		if err := r.next(); err != nil {
			return local(err)
		}
		h = append(h, r)
	}
	heap.Init(&h)
	for len(h) > 0 {
		if !yield(decodeItem(h[0].item), nil) {
			return nil
		}
		if err := h.advance(); err != nil {
			return err
		}
	}
	return nil
}

// merged takes over the items of another sorter.
func (s *sorter) merged(from *sorter) error {
	for _, one := range []*sorter{s, from} {
		if len(one.items) > 0 {
			if err := one.spill(); err != nil {
				return err
			}
		}
	}
	s.runs, from.runs = append(s.runs, from.runs...), nil
	return nil
}

func (s *sorter) close() {
	for _, file := range s.runs {
		file.Close()
	}
}

// run reads a sorted run.
type run struct {
	r    *bufio.Reader
	item []byte
}

// next reads an item as appendItem wrote it, or io.EOF.
func (r *run) next() error {
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return err
	}
	r.item = binary.AppendUvarint(r.item[:0], n)
	if err := r.take(int(n) + 5); err != nil {
		return err
	}
	n, err = binary.ReadUvarint(r.r)
	if err != nil {
		return noEOF(err)
	}
	r.item = binary.AppendUvarint(r.item, n)
	return r.take(int(n))
}

func (r *run) take(n int) error {
	r.item = slices.Grow(r.item, n)
	from := len(r.item)
	r.item = r.item[:from+n]
	_, err := io.ReadFull(r.r, r.item[from:])
	return noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// runHeap has the run with the first item on top.
type runHeap []*run

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return compare(h[i].item, h[j].item) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)        { *h = append(*h, x.(*run)) }

func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// advance moves the first run on.
func (h *runHeap) advance() error {
	err := (*h)[0].next()
	switch {
	case err == nil:
		heap.Fix(h, 0)
	case errors.Is(err, io.EOF):
		heap.Pop(h)
	default:
		return local(err)
	}
	return nil
}
