package layer

import (
	"context"
	"iter"
)

// inode numbers a file of one layer. It is never 0.
type inode uint64

// files are the files of one layer as its tar has them after all its entries were applied in order: whiteouts are files with names
// that begin with ".wh.". The methods that can take long take a context; the others read a local file.
type files interface {
	root() inode
	stat(ino inode) (Info, error)
	xattrs(ino inode) (map[string]string, error)
	// lookup finds a name in a folder, or image.ErrNotFound; what is no folder has no names.
	lookup(dir inode, name string) (Entry, error)
	// list lists a folder's names that are "from" or sort after it.
	list(dir inode, from string) iter.Seq2[Entry, error]
	readAt(ctx context.Context, ino inode, p []byte, off int64) (int, error)
	// paths are all names of a file that has more than one, relative to the root.
	paths(ino inode) iter.Seq2[string, error]
	// foreign lists the hard links to files that this layer does not have. In their folders they are entries of the type 0, and
	// stat tells the Target.
	foreign() iter.Seq2[foreignLink, error]
	// release ends the use of the files.
	release()
}

// foreignLink is a hard link to a file of a lower layer. Both are paths relative to the root, clean.
type foreignLink struct{ path, target string }
