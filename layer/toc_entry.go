package layer

import (
	"archive/tar"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tocEntry is an entry of a table. Both formats have the same, but for innerOffset, endOffset and chunkType
// (stargz-snapshotter, docs/estargz.md, "TOCEntry"; containers/storage, docs/containers-storage-zstd-chunked.md).
type tocEntry struct {
	Type     string            `json:"type"`
	Name     string            `json:"name"`
	LinkName string            `json:"linkName"`
	Mode     int64             `json:"mode"`
	Size     int64             `json:"size"`
	UID      int               `json:"uid"`
	GID      int               `json:"gid"`
	ModTime  string            `json:"modtime"`
	DevMajor int64             `json:"devMajor"`
	DevMinor int64             `json:"devMinor"`
	Xattrs   map[string][]byte `json:"xattrs"`

	Digest      string `json:"digest"`
	Offset      int64  `json:"offset"`      // where the chunk begins in the blob
	InnerOffset int64  `json:"innerOffset"` // and where in what is decompressed from there on
	EndOffset   int64  `json:"endOffset"`   // where the file's last chunk ends
	ChunkOffset int64  `json:"chunkOffset"` // where in the file it is
	ChunkSize   int64  `json:"chunkSize"`   // how much of the file it is; all that is left, if 0
	ChunkType   string `json:"chunkType"`   // "zeros", or "" for what is in the blob
	ChunkDigest string `json:"chunkDigest"` // of its content
}

const (
	tocChunk = "chunk"
	tocZeros = "zeros"
)

// tocTypes are the types of entries that are files.
var tocTypes = map[string]byte{
	"reg": tar.TypeReg, "dir": tar.TypeDir, "symlink": tar.TypeSymlink, "hardlink": tar.TypeLink, "char": tar.TypeChar, "block": tar.TypeBlock,
	"fifo": tar.TypeFifo,
}

// tocHidden are files that such layers have for their own use.
var tocHidden = map[string]bool{"stargz.index.json": true, ".prefetch.landmark": true, ".no.prefetch.landmark": true}

// entry takes the next entry. What a scan leaves out is left out here, too; what makes no sense spoils the table.
func (t *table) entry(e *tocEntry) error {
	if e.Type == tocChunk {
		return t.chunk(e)
	}
	h, err := e.header()
	if err != nil {
		return err
	}
	data, err := t.begin(e)
	if err != nil {
		return err
	}
	if path, err := cleanPath(e.Name); err == nil && tocHidden[path] {
		return nil
	}
	if err := t.next(); err != nil {
		return err
	}
	r, err := newRecord(h, data)
	if err != nil {
		t.problems.add(h.Name, err)
		return nil
	}
	return t.add(h, &r)
}

// header is what the layer's tar says of the file.
func (e *tocEntry) header() (*tar.Header, error) {
	kind, ok := tocTypes[e.Type]
	if !ok {
		return nil, fmt.Errorf("the unknown type %.20q", e.Type)
	}
	h := &tar.Header{
		Typeflag: kind, Name: e.Name, Linkname: e.LinkName, Mode: e.Mode, Uid: e.UID, Gid: e.GID, ModTime: time.Unix(0, 0),
		Devmajor: e.DevMajor, Devminor: e.DevMinor, PAXRecords: make(map[string]string, len(e.Xattrs)),
	}
	if kind == tar.TypeReg {
		h.Size = e.Size
	}
	for name, value := range e.Xattrs {
		h.PAXRecords[paxXattr+name] = string(value)
	}
	if e.ModTime != "" {
		var err error
		if h.ModTime, err = time.Parse(time.RFC3339, e.ModTime); err != nil {
			return nil, err
		}
	}
	return h, nil
}

var errChunk = errors.New("a chunk that makes no sense")

// sum is the digest of the chunk's content, or of the file's if it is all of it.
func (e *tocEntry) sum(isAll bool) (sum checksum, err error) {
	s := e.ChunkDigest
	if s == "" && isAll {
		s = e.Digest
	}
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 2*len(sum) {
		return sum, fmt.Errorf("the digest %.80q: %w", s, errChunk)
	}
	_, err = hex.Decode(sum[:], []byte(digits))
	return sum, err
}
