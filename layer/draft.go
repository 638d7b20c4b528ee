package layer

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
)

// An index, as pages, is:
//
//	header      magic, the root's inode, the size of the decompressed stream, and of each section where it begins and ends
//	sections    in the order of sectionKind
//
// All numbers are little-endian. What is in a section is said where it is made.
const indexMagic = "regfs\x00i\x01"

// indexVersion is part of an index's name: what another version of the program wrote is not looked at.
const indexVersion = 1

type sectionKind int

const (
	secSpans sectionKind = iota
	secData
	secNames
	secEntries
	secInodes
	secTexts
	secSeveral
	secForeign
	secProblems
	sections
)

const headerSize = len(indexMagic) + 16 + 16*int(sections)

// draft is an index in the making.
type draft struct {
	part [sections]*section
	// spans and data are those of part.
	spans, data *section
	root        uint64
	size        int64
	problems    problems
}

func newDraft(s Store) (*draft, error) {
	d := &draft{}
	for i := range d.part {
		var err error
		if d.part[i], err = newSection(s); err != nil {
			d.close()
			return nil, err
		}
	}
	d.spans, d.data = d.part[secSpans], d.part[secData]
	return d, nil
}

func (d *draft) close() {
	for _, s := range d.part {
		if s != nil {
			s.close()
		}
	}
}

// build makes the tree of what was sorted, of which seq was the last entry.
func (d *draft) build(store Store, s *sorter, seq uint32) error {
	m := &moves{store: store, last: seq}
	defer m.close()
	known := d.problems
	for pass := 1; ; pass++ {
		d.problems = known.clone()
		if err := d.pass(s, m); err != nil {
			return err
		}
		again, err := m.apply(s)
		if err != nil || !again {
			return err
		}
		if pass*int(seq) > maxAgain {
			return fmt.Errorf("entries behind symbolic links: %w", errTooMuch)
		}
		if err := d.restart(); err != nil {
			return err
		}
	}
}

// restart forgets a tree.
func (d *draft) restart() error {
	for _, i := range []sectionKind{secNames, secEntries, secInodes, secTexts, secSeveral, secForeign} {
		if err := d.part[i].reset(); err != nil {
			return err
		}
	}
	return nil
}

// pass makes a tree, and finds out what has to move.
func (d *draft) pass(s *sorter, m *moves) error {
	b := &builder{
		names: d.part[secNames], entries: d.part[secEntries], inodes: d.part[secInodes], texts: d.part[secTexts],
		stack: []*level{{}}, problems: &d.problems, moves: m,
	}
	root, err := b.build(s)
	if err != nil {
		return err
	}
	d.root = root
	several, foreign, err := b.settle()
	if err == nil {
		err = appendNames(d.part[secSeveral], several)
	}
	if err == nil {
		err = appendNames(d.part[secForeign], foreign)
	}
	return err
}

func appendNames(to *section, names []inodeName) error {
	var b []byte
	for _, n := range names {
		b = n.encode(b[:0])
		if _, err := to.append(b); err != nil {
			return err
		}
	}
	return nil
}

// write puts all into one file.
func (d *draft) write(s Store) (*os.File, error) {
	if _, err := d.part[secProblems].append([]byte(strings.Join(d.problems.all(), "\n"))); err != nil {
		return nil, err
	}
	file, err := s.Temp()
	if err != nil {
		return nil, local(err)
	}
	if err := d.writeTo(newPageWriter(file)); err != nil {
		file.Close()
		return nil, local(err)
	}
	return file, nil
}

func (d *draft) writeTo(w *pageWriter) error {
	if _, err := w.Write(d.header()); err != nil {
		return err
	}
	for _, part := range d.part {
		if err := part.writeTo(w); err != nil {
			return err
		}
	}
	return w.close()
}

func (d *draft) header() []byte {
	b := []byte(indexMagic)
	b = binary.LittleEndian.AppendUint64(b, d.root)
	b = binary.LittleEndian.AppendUint64(b, uint64(d.size))
	at := int64(headerSize)
	for _, part := range d.part {
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
		at += part.size
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
	}
	return b
}
