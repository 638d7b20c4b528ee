package sif

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/regfs/regfs/image"
)

// The sizes of what a SIF begins with, in bytes. Numbers are little-endian.
const (
	headerSize     = 128
	descriptorSize = 585
)

// maxDescriptors is how many objects a file may have, or have room for. It has room for 48 when it is made.
const maxDescriptors = 10_000

// What an object can be.
const (
	typeDefinition = 0x4001
	typePartition  = 0x4004
	typeRootIndex  = 0x400a
	typeOCIBlob    = 0x400b
)

// What is in a partition, and which one it is.
const (
	squashfs          = 1
	encryptedSquashfs = 5
	primary           = 2
)

// object is a part of the file.
type object struct {
	kind       int32
	off, size  int64
	fs, number int32 // of a partition: what it has, and which one it is
}

// architectures are those of the header, in Go's words.
var architectures = map[string]string{
	"01": "386", "02": "amd64", "03": "arm", "04": "arm64", "05": "ppc64", "06": "ppc64le", "07": "mips", "08": "mipsle",
	"09": "mips64", "10": "mips64le", "11": "s390x", "12": "riscv64",
}

// parse reads what is in a SIF of a size. ErrInvalid where it is none, or says what cannot be; ErrUnsupported where it is another kind.
func parse(r io.ReaderAt, size int64) (contents, error) {
	var header [headerSize]byte
	if _, err := r.ReadAt(header[:], 0); err != nil {
		return contents{}, fmt.Errorf("it is no SIF: %w", ended(err))
	}
	if magic := string(header[32:42]); magic != "SIF_MAGIC\x00" {
		return contents{}, fmt.Errorf("it is no SIF: there is no SIF_MAGIC in it: %w", image.ErrInvalid)
	}
	if version := text(header[42:45]); version != "01" {
		return contents{}, fmt.Errorf("it is a SIF of version %q, and only 01 is known: %w", version, image.ErrUnsupported)
	}
	c := contents{id: uuid(header[48:64]), architecture: architectures[text(header[45:48])]}
	if c.architecture == "" {
		c.architecture = "unknown"
	}
	c.modified = time.Unix(number(header[72:]), 0).UTC()
	if year := c.modified.Year(); year < 0 || year > 9999 {
		return contents{}, fmt.Errorf("its time of modification is in the year %d: %w", year, image.ErrInvalid)
	}
	objects := objects{r: r, size: size, off: number(header[96:]), n: number(header[88:])}
	return c, c.find(objects)
}

func number(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) }

func small(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }

// text is what stands before the zeros at the end of a field.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// ended tells that a file ends too early.
func ended(err error) error {
	if err == io.EOF {
		return fmt.Errorf("it is cut short: %w", image.ErrInvalid)
	}
	return err
}

// find looks for what an image is made of. Of several definitions none counts, since none is known to be the one.
func (c *contents) find(all objects) error {
	partitions, definitions, oci := 0, 0, 0
	var definition object
	err := all.each(func(o object) {
		switch {
		case o.kind == typePartition && o.number == primary:
			partitions, c.partition = partitions+1, o
		case o.kind == typeDefinition:
			definitions, definition = definitions+1, o
		case o.kind == typeRootIndex || o.kind == typeOCIBlob:
			oci++
		}
	})
	if definitions == 1 {
		c.definition = &definition
	}
	switch {
	case err != nil:
		return err
	case partitions == 0 && oci > 0:
		return fmt.Errorf("it is an OCI-SIF, whose layers are file systems and not tars: %w", image.ErrUnsupported)
	case partitions != 1:
		return fmt.Errorf("it has %d primary partitions, and not one: %w", partitions, image.ErrInvalid)
	case c.partition.fs == encryptedSquashfs:
		return fmt.Errorf("its file system is encrypted: %w", image.ErrUnsupported)
	case c.partition.fs != squashfs:
		return fmt.Errorf("its file system is of kind %d, and no squashfs: %w", c.partition.fs, image.ErrUnsupported)
	}
	return nil
}

// objects are the descriptors of a file.
type objects struct {
	r            io.ReaderAt
	size, off, n int64
}

// each calls fn with all objects there are, each of which is inside of the file.
func (all objects) each(fn func(object)) error {
	if all.n < 0 || all.n > maxDescriptors || all.off < headerSize || all.off > all.size-all.n*descriptorSize {
		return fmt.Errorf("%d descriptors at %d can't be in a file of %d bytes: %w", all.n, all.off, all.size, image.ErrInvalid)
	}
	var b [descriptorSize]byte
	for i := range all.n {
		if _, err := all.r.ReadAt(b[:], all.off+i*descriptorSize); err != nil {
			return ended(err)
		}
		if used := b[4] != 0; !used {
			continue
		}
		o := object{kind: small(b[:]), off: number(b[17:]), size: number(b[25:]), fs: small(b[201:]), number: small(b[205:])}
		if o.off < 0 || o.size < 0 || o.off > all.size-o.size {
			return fmt.Errorf("an object of %d bytes at %d can't be in a file of %d: it is cut short, or damaged: %w",
				o.size, o.off, all.size, image.ErrInvalid)
		}
		fn(o)
	}
	return nil
}
