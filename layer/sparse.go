package layer

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var errSparse = errors.New("a sparse file with more or less content than it says")

// blockSize is that of a tar archive, in bytes.
const blockSize = 512

// rawEntry is all of an archive's entry before its content, as the archive has it. archive/tar knows which parts of a sparse file
// are there, and does not tell; it has checked what is read here.
type rawEntry struct {
	before int64 // where the entry's own header begins, behind those that only say more about it
	block  []byte
	after  []byte // what follows the header: blocks of an old map, or a map of format 1.0
}

// splitRaw finds the entry's own header.
func splitRaw(raw []byte) (rawEntry, error) {
	off := int64(0)
	for {
		if off > int64(len(raw))-blockSize {
			return rawEntry{}, fmt.Errorf("no header: %w", tar.ErrHeader)
		}
		block := raw[off : off+blockSize]
		switch block[156] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			size, err := number(block[124:136])
			if err != nil || size > int64(len(raw)) {
				return rawEntry{}, tar.ErrHeader
			}
			off += blockSize + padded(size)
		default:
			return rawEntry{off, block, raw[off+blockSize:]}, nil
		}
	}
}

func padded(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// number reads a numeric field: octal digits or, as GNU does, a binary number.
func number(b []byte) (int64, error) {
	if len(b) > 8 && b[0]&0x80 != 0 {
		if !bytes.Equal(b[1:len(b)-8], make([]byte, len(b)-9)) || b[0] != 0x80 {
			return 0, tar.ErrHeader
		}
		return int64(binary.BigEndian.Uint64(b[len(b)-8:]) & (1<<63 - 1)), nil
	}
	s, _, _ := strings.Cut(strings.Trim(string(b), " \x00"), "\x00")
	if s == "" {
		return 0, nil
	}
	return strconv.ParseInt(s, 8, 64)
}

// isSparse tells whether an entry has a map, as GNU tar writes them in four ways.
func isSparse(h *tar.Header) bool {
	major, minor := h.PAXRecords["GNU.sparse.major"], h.PAXRecords["GNU.sparse.minor"]
	switch {
	case h.Typeflag == tar.TypeGNUSparse:
		return true
	case major != "" || minor != "":
		return major == "0" && (minor == "0" || minor == "1") || major == "1" && minor == "0"
	}
	return h.PAXRecords["GNU.sparse.map"] != ""
}

// sparseMap is which parts of a sparse file are there, and where the entry ends, from the start of raw.
func sparseMap(h *tar.Header, raw []byte) (parts []fragment, end int64, err error) {
	entry, err := splitRaw(raw)
	if err != nil {
		return nil, 0, err
	}
	size, err := number(entry.block[124:136])
	if s := h.PAXRecords["size"]; s != "" && err == nil {
		size, err = strconv.ParseInt(s, 10, 64)
	}
	if err != nil {
		return nil, 0, tar.ErrHeader
	}
	end = entry.before + blockSize + padded(size)
	switch {
	case h.Typeflag == tar.TypeGNUSparse:
		parts, err = oldMap(entry)
		end += int64(len(entry.after)) // only blocks of the map can be there
	case h.PAXRecords["GNU.sparse.major"] == "1":
		parts, err = listMap(strings.Split(string(entry.after), "\n"))
	default:
		numbers := strings.Split(h.PAXRecords["GNU.sparse.map"], ",")
		parts, err = listMap(append([]string{strconv.Itoa(len(numbers) / 2)}, numbers...))
	}
	return parts, end, err
}

// fits tells whether a map has as much content as the entry, whose content is filled up to whole blocks.
func fits(parts []fragment, content int64) error {
	sum := int64(0)
	for _, p := range parts {
		if sum += p.size; sum > content {
			break
		}
	}
	if padded(sum) != content {
		return errSparse
	}
	return nil
}

// oldMap reads the binary map of the old format: four parts in the header, and 21 in each block behind it.
func oldMap(entry rawEntry) ([]fragment, error) {
	fields := entry.block[386:482]
	var parts []fragment
	for rest := entry.after; ; rest = rest[blockSize:] {
		for ; len(fields) >= 24 && fields[0] != 0; fields = fields[24:] {
			off, err := number(fields[:12])
			if err != nil {
				return nil, tar.ErrHeader
			}
			size, err := number(fields[12:24])
			if err != nil {
				return nil, tar.ErrHeader
			}
			parts = append(parts, fragment{off, size})
		}
		if len(rest) < blockSize {
			return parts, nil
		}
		fields = rest[:504]
	}
}

// listMap reads a list of numbers: how many parts there are, and each one's offset and size.
func listMap(numbers []string) ([]fragment, error) {
	n, err := strconv.Atoi(numbers[0])
	if err != nil || n < 0 || n > (len(numbers)-1)/2 {
		return nil, tar.ErrHeader
	}
	parts := make([]fragment, 0, n)
	for i := range n {
		off, err := strconv.ParseInt(numbers[1+2*i], 10, 64)
		if err != nil {
			return nil, tar.ErrHeader
		}
		size, err := strconv.ParseInt(numbers[2+2*i], 10, 64)
		if err != nil {
			return nil, tar.ErrHeader
		}
		parts = append(parts, fragment{off, size})
	}
	return parts, nil
}
