package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// An index is kept in pages, each with a checksum behind it: nothing is synced to the disk, and a page that a power failure left torn
// is found out when it is read.
const (
	pageSize = 16 << 10
	pageData = pageSize - crc32.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is an index that is not what was written. It is made again.
var errDamaged = errors.New("damaged index")

// pageWriter cuts what is written into pages. The last one is filled up with zeros by close.
type pageWriter struct {
	w    *bufio.Writer
	page []byte
}

func newPageWriter(w io.Writer) *pageWriter {
	return &pageWriter{bufio.NewWriterSize(w, 16*pageSize), make([]byte, 0, pageSize)}
}

func (w *pageWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), pageData-len(w.page))
		w.page = append(w.page, rest[:n]...)
		rest = rest[n:]
		if len(w.page) < pageData {
			break
		}
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *pageWriter) flush() error {
	_, err := w.w.Write(binary.LittleEndian.AppendUint32(w.page, crc32.Checksum(w.page, castagnoli)))
	w.page = w.page[:0]
	return err
}

func (w *pageWriter) close() error {
	if len(w.page) > 0 {
		w.page = w.page[:pageData:pageSize]
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.w.Flush()
}

// pages reads what a pageWriter wrote. It is safe for concurrent use.
type pages struct {
	file *os.File
	size int64 // of the data
	pool *pagePool
	id   uint64
}

func newPages(file *os.File, pool *pagePool) (*pages, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 || info.Size()%pageSize != 0 {
		return nil, fmt.Errorf("%d bytes are no pages: %w", info.Size(), errDamaged)
	}
	return &pages{file, info.Size() / pageSize * pageData, pool, pool.number()}, nil
}

// bytes are n bytes at off, not to be changed.
func (p *pages) bytes(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off > p.size-int64(n) {
		return nil, fmt.Errorf("%d bytes at %d of %d: %w", n, off, p.size, errDamaged)
	}
	at := int(off % pageData)
	if at+n <= pageData {
		page, err := p.page(off / pageData)
		if err != nil {
			return nil, err
		}
		return page[at : at+n], nil
	}
	return p.gather(make([]byte, 0, n), off, n)
}

func (p *pages) gather(to []byte, off int64, n int) ([]byte, error) {
	for n > 0 {
		page, err := p.page(off / pageData)
		if err != nil {
			return nil, err
		}
		at := int(off % pageData)
		part := page[at:min(pageData, at+n)]
		to, off, n = append(to, part...), off+int64(len(part)), n-len(part)
	}
	return to, nil
}

func (p *pages) page(i int64) ([]byte, error) {
	key := pageKey{p.id, i}
	if page := p.pool.get(key); page != nil {
		return page, nil
	}
	page := make([]byte, pageSize)
	if _, err := p.file.ReadAt(page, i*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w: %w", i, err, errDamaged)
	}
	if crc32.Checksum(page[:pageData], castagnoli) != binary.LittleEndian.Uint32(page[pageData:]) {
		return nil, fmt.Errorf("page %d: %w", i, errDamaged)
	}
	p.pool.put(key, page[:pageData])
	return page[:pageData], nil
}

// pagePool remembers pages of all indexes, some that were used lately: a page is given a second chance before it goes.
type pagePool struct {
	mu    sync.Mutex
	last  uint64
	pages map[pageKey]int
	slots []pageSlot
	hand  int
}

type pageKey struct {
	id   uint64
	page int64
}

type pageSlot struct {
	key  pageKey
	data []byte
	used bool
}

func newPagePool(size int) *pagePool {
	return &pagePool{pages: map[pageKey]int{}, slots: make([]pageSlot, 0, size/pageSize)}
}

// number is one that no other index has.
func (p *pagePool) number() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	return p.last
}

func (p *pagePool) get(key pageKey) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, ok := p.pages[key]
	if !ok {
		return nil
	}
	p.slots[i].used = true
	return p.slots[i].data
}

func (p *pagePool) put(key pageKey, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.pages[key]; ok {
		return
	}
	i := p.free()
	delete(p.pages, p.slots[i].key)
	p.slots[i] = pageSlot{key: key, data: data}
	p.pages[key] = i
}

// free is a slot for a new page.
func (p *pagePool) free() int {
	if n := len(p.slots); n < cap(p.slots) {
		p.slots = p.slots[:n+1]
		return n
	}
	for p.slots[p.hand].used {
		p.slots[p.hand].used = false
		p.hand = (p.hand + 1) % len(p.slots)
	}
	i := p.hand
	p.hand = (p.hand + 1) % len(p.slots)
	return i
}
