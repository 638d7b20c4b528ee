package stage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// record is one line of a staging's journal, which says what names there are: a path stands for something, for nothing (no
// Kind), or has moved to another one.
type record struct {
	Path string      `json:"path"`
	Kind Kind        `json:"kind,omitempty"`
	To   string      `json:"to,omitempty"`
	Over bool        `json:"over,omitempty"`
	File *fileRecord `json:"file,omitempty"`
}

// fileRecord is a file: its content is in the data file of that number, or is what Ref says.
type fileRecord struct {
	ID   uint64     `json:"id"`
	Mode uint32     `json:"mode,omitempty"`
	Ref  *Reference `json:"ref,omitempty"`
}

const journalFile = "names"

// create makes the staging's folder, with nothing in it.
func (l *Staging) create() error {
	if err := os.RemoveAll(l.dir); err != nil {
		return err
	}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return err
	}
	raw, err := json.Marshal(l.site)
	if err == nil {
		err = os.WriteFile(filepath.Join(l.dir, siteFile), raw, 0o600)
	}
	if err == nil {
		l.journal, err = os.OpenFile(filepath.Join(l.dir, journalFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	return err
}

// note writes a record down. The lock is held. What was written of a line that fails is cut off by the next replay.
func (l *Staging) note(r record) error {
	if l.gone || l.journal == nil {
		return ErrGone
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("journal of %s: %w", l.site, err)
	}
	// Newlines stand at both ends, so that a line which was cut short by a full disk spoils no other.
	if _, err := l.journal.Write(append(append([]byte("\n"), raw...), '\n')); err != nil {
		return fmt.Errorf("journal of %s: %w", l.site, err)
	}
	return nil
}

func (l *Staging) syncJournal() error {
	l.mu.Lock()
	journal := l.journal
	l.mu.Unlock()
	if journal == nil {
		return nil
	}
	if err := journal.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("journal of %s: %w", l.site, err)
	}
	return nil
}

// maxLine is how long a line of a journal can be, in bytes.
const maxLine = 1 << 20

// replay reads the journal, and writes it anew without what has no effect any more.
func (l *Staging) replay() error {
	f, err := os.Open(filepath.Join(l.dir, journalFile))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) == nil { // an empty line, or one that was cut short, is none
			l.apply(r)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	l.measure()
	return l.rewrite()
}

func (l *Staging) apply(r record) {
	switch {
	case r.To != "":
		l.move(r.Path, r.To)
	case r.Kind == "":
		delete(l.names, r.Path)
	default:
		n := &name{kind: r.Kind, over: r.Over, made: time.Now()}
		if r.Kind == Regular && r.File != nil {
			n.file = newFile(l, r.Path, r.File.ID, r.File.Mode)
			n.file.ref = r.File.Ref
			l.store.nextID = max(l.store.nextID, r.File.ID)
		}
		if r.Kind != Regular || n.file != nil {
			l.names[r.Path] = n
		}
	}
}

// measure finds out how large the files are, and removes content that belongs to none.
func (l *Staging) measure() {
	known := map[string]bool{journalFile: true, siteFile: true}
	for _, n := range l.names {
		f := n.file
		if f == nil {
			continue
		}
		known[strconv.FormatUint(f.id, 10)] = true
		if f.ref != nil {
			f.size = f.ref.N
		} else if info, err := os.Stat(f.data.path); err == nil {
			f.size = info.Size()
			f.mtime = info.ModTime()
		}
		f.hash = nil // what is there was hashed by another process
	}
	files, _ := os.ReadDir(l.dir) // what can't be listed is not in the way
	for _, f := range files {
		if !known[f.Name()] {
			_ = os.Remove(filepath.Join(l.dir, f.Name()))
		}
	}
}

// rewrite makes the journal as short as it can be.
func (l *Staging) rewrite() error {
	temp := filepath.Join(l.dir, journalFile+".new")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.journal = f
	for at, n := range l.names {
		if err := l.note(record{Path: at, Kind: n.kind, Over: n.over, File: n.file.record()}); err != nil {
			f.Close()
			return err
		}
	}
	return os.Rename(temp, filepath.Join(l.dir, journalFile))
}
