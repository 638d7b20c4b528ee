//go:build linux

package mount_test

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tenLayers are layers that undo one another, an entry a line: d a folder, f a file, l a hard link and what it is one of, s a symbolic
// link and its target, p a fifo, w a whiteout, o what makes a folder opaque.
var tenLayers = []string{
	// What the others work on. The folder opt comes after what is in it.
	`d app
	d app/lib
	f app/lib/one
	f app/lib/two
	d app/lib/deep
	d app/lib/deep/er
	f app/lib/deep/er/file
	f app/first
	l app/second app/first
	l app/lib/third app/first
	s app/link first
	p app/pipe
	d data
	d data/old
	f data/old/a
	f data/old/b
	f data/keep
	f data/turn
	d data/turned
	f data/turned/in
	d swap
	f swap/file
	d swap/folder
	f swap/folder/in
	s swap/link file
	d many
	f opt/bin/tool
	d opt
	f zero`,
	// Deletions: of a file, a folder, a link, a fifo, and of what is not there.
	`w app/lib/one
	w data/old
	w app/link
	w app/pipe
	w app/nothing`,
	// An opaque folder, said first.
	`d app/lib
	o app/lib
	f app/lib/new
	f app/lib/two`,
	// And one said last, in a folder that the layer does not describe itself.
	`f data/fresh
	d data/fresh-folder
	f data/fresh-folder/in
	o data`,
	// Files become folders and folders files, without whiteouts.
	`d swap/file
	f swap/file/in
	f swap/folder
	d swap/link
	f swap/link/in
	f many/1
	f many/2
	f many/3
	f new/implied/file`,
	// And back. What was below is not to come back with them.
	`f swap/file
	d swap/folder
	f swap/folder/other
	s swap/link folder
	w many/2
	d new`,
	// Hard links to files of lower layers, and to one that is such a link.
	`l app/linked app/first
	l linked-too app/linked
	l many/one many/1
	f many/4
	l many/four many/4`,
	// The first name goes, and the others stay; another gets a new content, and the others keep theirs.
	`w app/first
	f app/second
	f many/1`,
	// Whiteouts of names that the same layer has, before and after, and the same entry twice.
	`w app/lib
	d app/lib
	f app/lib/two
	f many/5
	w many/5
	f twice
	f twice
	d many
	f many/3`,
	// A folder goes whole, and one of its files comes back; one changes and keeps what is in it.
	`w swap
	f swap/folder/other
	d opt
	d opt/bin
	w zero`,
}

// tenImage is ten layers, each packed in another way.
func tenImage(ctx context.Context, dir string) (layouts, error) {
	layers, err := tenTars(dir)
	if err != nil {
		return layouts{}, err
	}
	return writeLayouts(ctx, dir, layers...)
}

func tenTars(dir string) (layers []packed, err error) {
	for i, p := range []packing{gzipped, zstd, plain, members, frames, best, pigz, long, plain, gzipped} {
		path := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
		if err := writeTar(path, i, tenLayers[i]); err != nil {
			return nil, err
		}
		layers = append(layers, packed{tar: path, packing: p})
	}
	return layers, nil
}

func writeTar(path string, layer int, entries string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for i, entry := range strings.Split(entries, "\n") {
		fields := strings.Fields(entry)
		header, content := tarEntry(fields, layer, i)
		if err := w.WriteHeader(&header); err != nil {
			return fmt.Errorf("%s: %w", entry, err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			return err
		}
	}
	return w.Close()
}

// tarEntry makes an entry that is unlike all others in its owner, time and content.
func tarEntry(fields []string, layer, i int) (header tar.Header, content string) {
	kind, name := fields[0], fields[1]
	header = tar.Header{
		Name: name, Mode: 0o644, Uid: layer, Gid: i, Format: tar.FormatPAX,
		ModTime: time.Date(2000+layer, 1, 1, 0, i, 0, 1000*layer+i, time.UTC),
	}
	switch kind {
	case "d":
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o700+int64(layer)
	case "f":
		header.Typeflag = tar.TypeReg
		content = strings.Repeat(fmt.Sprintf("%s of layer %d\n", name, layer), 1+i)
	case "l":
		header.Typeflag, header.Linkname = tar.TypeLink, fields[2]
	case "s":
		header.Typeflag, header.Linkname = tar.TypeSymlink, fields[2]
	case "p":
		header.Typeflag = tar.TypeFifo
	case "w":
		header.Name = filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name))
	case "o":
		header.Name = filepath.Join(name, ".wh..wh..opq")
	}
	header.Size = int64(len(content))
	return header, content
}
