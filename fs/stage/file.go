package stage

import (
	"context"
	"fmt"
	"hash"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

// File is a staged file. It is safe for concurrent use.
type File struct {
	l  *Staging
	id uint64

	// io comes before the staging's lock. It is held for writing by who changes the content, for reading by who needs it to stay.
	io   sync.RWMutex
	data *data
	disk uint64 // the number of data
	open int    // how many handles there are: data stays in use for them
	// ref: the content is what ref says, and nothing is on disk.
	ref     *Reference
	size    int64
	version uint64 // counts changes of the content
	// hash has taken the first hashed bytes; nil when something before there changed.
	hash   hash.Hash
	hashed int64
	// sum is the content's digest when it had the version sumOf, 0 for never.
	sum   digest.Digest
	sumOf uint64
	// judged is the version that was found to be the blob the file is called, 0 for none.
	judged uint64
	early  bool // its upload beside the writing was begun
	// grown is closed when the content changed, for who follows it.
	grown chan struct{}

	// These are the staging's lock's.
	path    string // where it stands; "" when it was removed
	handles int
	settled uint64 // the version that was pushed, and need not be kept; 0 for none

	meta   sync.Mutex
	mode   uint32
	uid    uint32
	gid    uint32
	owned  bool // uid and gid were set
	atime  time.Time
	mtime  time.Time
	xattrs map[string][]byte
}

func newFile(l *Staging, at string, id uint64, mode uint32) *File {
	now := time.Now()
	return &File{
		l: l, id: id, disk: id, path: at, mode: mode & 0o7777, atime: now, mtime: now, version: 1, hash: digest.SHA256.Hash(),
		data: &data{path: filepath.Join(l.dir, strconv.FormatUint(id, 10))}, grown: make(chan struct{}),
	}
}

func (f *File) record() *fileRecord {
	if f == nil {
		return nil
	}
	return &fileRecord{ID: f.disk, Mode: f.mode, Ref: f.ref}
}

// ID is a number that no other file has that was ever staged here.
func (f *File) ID() uint64 { return f.id }

// Size is the file's length in bytes.
func (f *File) Size() int64 {
	f.io.RLock()
	defer f.io.RUnlock()
	return f.size
}

// maxFile is how long a file can be, in bytes: as long as other file systems take them.
const maxFile = 1 << 60

// WriteAt changes the content, as pwrite(2) does.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > maxFile-int64(len(p)) {
		return fmt.Errorf("write at %d: %w", off, unix.EFBIG)
	}
	f.io.Lock()
	defer f.io.Unlock()
	out, err := f.writable(ctx)
	if err != nil {
		return err
	}
	defer f.data.release()
	n, err := out.WriteAt(p, off)
	f.took(p[:n], off)
	f.mayUpload()
	return err
}

// mayUpload begins the upload of a blob that is written in order, once.
func (f *File) mayUpload() {
	if f.early || f.hash == nil || f.hashed < earlyAt || f.hashed != f.size {
		return
	}
	f.l.mu.Lock()
	dgst, ok := blobDigest(f.path)
	f.l.mu.Unlock()
	if ok && dgst.Algorithm() == digest.SHA256 {
		f.early = true
		f.l.begin(dgst, f, true)
	}
}

// writable makes the content one that can be written to. The caller releases data.
func (f *File) writable(ctx context.Context) (io.WriterAt, error) {
	if err := f.materialise(ctx, math.MaxInt64); err != nil {
		return nil, err
	}
	if err := f.unshare(); err != nil {
		return nil, err
	}
	return f.data.use()
}

// took notes that p was written at off.
func (f *File) took(p []byte, off int64) {
	switch {
	case len(p) == 0:
		return
	case off < f.hashed:
		f.hash = nil
	case off == f.hashed && f.hash != nil:
		f.hash.Write(p)
		f.hashed += int64(len(p))
	}
	f.size = max(f.size, off+int64(len(p)))
	f.altered()
}

// altered tells everybody that the content is another one.
func (f *File) altered() {
	f.version++
	close(f.grown)
	f.grown = make(chan struct{})
	f.meta.Lock()
	f.mtime = time.Now()
	f.meta.Unlock()
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	f.settled = 0
	f.l.changed()
	f.l.reopened()
	dgst, ok := blobDigest(f.path)
	switch {
	case f.path == v1.ImageIndexFile:
		f.l.wants, f.l.stuck = nil, nil
	case ok && f.l.wants != nil:
		f.l.wants[dgst] = true // whatever was known of it has to be judged again
	}
}

// Truncate sets the length, as ftruncate(2) does.
func (f *File) Truncate(ctx context.Context, size int64) error {
	if size < 0 || size > maxFile {
		return fmt.Errorf("truncate to %d: %w", size, unix.EFBIG)
	}
	f.io.Lock()
	defer f.io.Unlock()
	if size == f.size {
		return nil
	}
	if err := f.materialise(ctx, size); err != nil {
		return err
	}
	if err := f.unshare(); err != nil {
		return err
	}
	out, err := f.data.use()
	if err != nil {
		return err
	}
	defer f.data.release()
	if err := out.Truncate(size); err != nil {
		return err
	}
	switch {
	case size == 0:
		f.hash, f.hashed = digest.SHA256.Hash(), 0
	case size < f.hashed:
		f.hash = nil
	}
	f.size = size
	f.altered()
	return nil
}

// unshare gives the file content of its own, if somebody needs what it has now to stay.
func (f *File) unshare() error {
	if !f.data.pinned() {
		return nil
	}
	id := f.l.store.id()
	own := &data{path: filepath.Join(f.l.dir, strconv.FormatUint(id, 10))}
	if err := f.data.clone(own, f.size); err != nil {
		own.remove()
		return err
	}
	f.replaceData(own, id)
	return nil
}

// replaceData makes other data the content's place. The number goes into the journal, for the next start.
func (f *File) replaceData(own *data, id uint64) {
	if f.open > 0 {
		_, _ = own.use() // it was used just now
		f.data.release()
	}
	f.data.remove()
	f.data, f.disk = own, id
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	if n := f.l.names[f.path]; n != nil && n.file == f {
		_ = f.l.note(record{Path: f.path, Kind: Regular, File: f.record()})
	}
}

// ReadAt reads the content, as pread(2) does: io.EOF at its end.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.io.RLock()
	if f.ref != nil {
		f.io.RUnlock()
		return f.readRef(ctx, p, off)
	}
	defer f.io.RUnlock()
	if off >= f.size {
		return 0, io.EOF
	}
	in, err := f.data.use()
	if err != nil {
		return 0, err
	}
	defer f.data.release()
	return in.ReadAt(p[:min(int64(len(p)), f.size-off)], off)
}

// Sync has the disk keep what was written, and under which name.
func (f *File) Sync() error {
	if err := f.l.syncJournal(); err != nil {
		return err
	}
	f.io.RLock()
	defer f.io.RUnlock()
	if f.ref != nil || f.size == 0 {
		return nil
	}
	out, err := f.data.use()
	if err != nil {
		return err
	}
	defer f.data.release()
	return out.Sync()
}

// digest is that of the content, by an algorithm, and the version it is of.
func (f *File) digest(ctx context.Context, alg digest.Algorithm) (digest.Digest, uint64, error) {
	f.io.RLock()
	defer f.io.RUnlock()
	switch {
	case f.ref != nil && f.ref.whole() && f.ref.Descriptor.Digest.Algorithm() == alg:
		return f.ref.Descriptor.Digest, f.version, nil
	case f.ref == nil && f.hash != nil && f.hashed == f.size && alg == digest.SHA256:
		return digest.NewDigest(alg, f.hash), f.version, nil
	}
	f.meta.Lock()
	sum, of := f.sum, f.sumOf
	f.meta.Unlock()
	if of == f.version && sum.Algorithm() == alg {
		return sum, of, nil
	}
	sum, err := f.rehash(ctx, alg)
	if err == nil {
		f.meta.Lock()
		f.sum, f.sumOf = sum, f.version
		f.meta.Unlock()
	}
	return sum, f.version, err
}

// rehash reads all of the content. The lock is held for reading.
func (f *File) rehash(ctx context.Context, alg digest.Algorithm) (digest.Digest, error) {
	if f.ref != nil {
		return f.rehashRef(ctx, alg)
	}
	in, err := f.data.reader(0, f.size)
	if err != nil {
		return "", err
	}
	defer in.Close()
	h := alg.Hash()
	if _, err := io.Copy(h, &interruptible{ctx, in}); err != nil {
		return "", err
	}
	return digest.NewDigest(alg, h), nil
}

// interruptible ends reading with the context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.Reader.Read(p)
}

// bytes is the whole content, if it is no longer than limit.
func (f *File) bytes(ctx context.Context, limit int64) ([]byte, uint64, error) {
	f.io.RLock()
	size, version := f.size, f.version
	f.io.RUnlock()
	if size > limit {
		return nil, 0, bad("%d bytes, more than %d", size, limit)
	}
	raw := make([]byte, size)
	n, err := f.ReadAt(ctx, raw, 0)
	if err == io.EOF {
		err = nil
	}
	return raw[:n], version, err
}

// unlinked ends the file's content, when nobody uses it any more.
func (f *File) unlinked() {
	f.l.mu.Lock()
	f.path = ""
	f.l.mu.Unlock()
	f.io.Lock()
	defer f.io.Unlock()
	f.data.remove()
	close(f.grown)
	f.grown = make(chan struct{})
}

// bad is content that can't be what its name says.
func bad(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, image.ErrRefused)...)
}
