// Package layer shows what is inside layers: a layer's blob as a tree of files, and the layers of an image merged into its
// root filesystem (image-spec, layer.md). Nothing is unpacked.
//
// A blob is read once, from end to end, while it is fetched and verified. What that finds is kept as an index: the files of the
// tar, and the places in the compressed stream where decompression can begin. Each span between two such places has its checksum
// there, so that later a single span can be fetched, and is as sure as the whole.
package layer

import (
	"context"
	"iter"
	"os"
	"time"

	"github.com/regfs/regfs/image"
)

// File is a file, a folder or anything else of a tree that never changes. It holds nothing open and may be kept for as long as its
// Layers are open. It is safe for concurrent use. The first use of any File of a layer waits until that layer is indexed.
//
// Errors are those of package image: ErrInvalid for a layer that can't be understood, ErrDenied for one that is encrypted.
type File interface {
	// Stat describes the file.
	Stat(ctx context.Context) (Info, error)
	// Xattrs are its extended attributes, as the layer has them.
	Xattrs(ctx context.Context) (map[string]string, error)
	// Lookup finds a name in a folder, or ErrNotFound.
	Lookup(ctx context.Context, name string) (File, error)
	// List lists a folder, sorted by name, byte by byte.
	List(ctx context.Context) iter.Seq2[Entry, error]
	// ReadAt reads a regular file, as io.ReaderAt does. All bytes it gives are verified.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// Entry is one name in a folder.
type Entry struct {
	Name string
	// Ino is that of the file's Info.
	Ino uint64
	// Type is that of the file's Mode: S_IFDIR and its like.
	Type uint32
}

// Info is what a layer says of a file.
type Info struct {
	// Ino is the same for all names of a file and for no other file of the tree, and the same each time a tree is made of the
	// same layers. It is never 0, and less than 1<<60.
	Ino uint64
	// Mode is the type and the permissions, as in stat(2).
	Mode uint32
	// UID and GID are the owner's numbers.
	UID, GID uint32
	// Size is that of a regular file in bytes, and the length of a symbolic link's target.
	Size int64
	// Mtime is when the content changed last.
	Mtime time.Time
	// Major and Minor tell which device a device file is.
	Major, Minor uint32
	// Links is how many names a file has that is no folder.
	Links uint32
	// Target is what a symbolic link points to.
	Target string
	// Implied is a folder that no entry of the layer describes: it is there because something is in it.
	Implied bool
}

// Whiteouts says how one layer's tree shows what it removes from the layers below.
type Whiteouts int

const (
	// AsNames shows whiteouts as the layer has them: ".wh.NAME" is a file, ".wh..wh..opq" another.
	AsNames Whiteouts = iota
	// AsOverlay shows them as overlayfs wants its lower folders: NAME is a character device 0/0, and an opaque folder has the
	// extended attribute trusted.overlay.opaque.
	AsOverlay
)

// Store keeps what was found out about layers.
type Store interface {
	// OpenIndex opens what was kept as an index under a name, or fails with fs.ErrNotExist. The file can't be evicted while it is open.
	OpenIndex(name string) (*os.File, error)
	// PutIndex keeps the content of a file, from its start, under a name: whole, or not at all.
	PutIndex(name string, from *os.File) error
	// Spans opens the file that keeps single spans of a blob, at the offsets they have there. It is made when there is none, has
	// holes, and may lose its content at any time. Who reads it must verify.
	Spans(name string) (*os.File, error)
	// Temp makes a file that has no name and goes when it is closed.
	Temp() (*os.File, error)
}

// Options say what Layers work with. All but Report is required.
type Options struct {
	Store Store
	// Blobs opens the blobs of layers.
	Blobs image.Blobs
	// Memory is how many bytes of decompressed content are remembered; 0 is DefaultMemory.
	Memory int64
	// Report is told what is wrong with a layer, once for each time it is opened, where the rest of it can be shown.
	Report func(d image.Descriptor, problem string)
}

// DefaultMemory is how much decompressed content is remembered, unless Options say otherwise.
const DefaultMemory = 32 << 20
