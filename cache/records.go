package cache

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

// records are what places said, one file each, named refs/<host>/<repository>/<kind>/<name>, each part escaped:
//
//	tags/<tag>                   record: what a tag named, and when
//	digests/<digest>             record: media type and size. That this repository has it, too
//	lists/tags                   all tags, one JSON string a line
//	lists/<digest>@<type>        all referrers, one JSON descriptor a line, as of the file's time
//
// A record that can't be read, for whatever reason, is none.
type records struct {
	store
	changes *changes
}

// record is what a tag or digest named when it was asked for.
type record struct {
	Descriptor image.Descriptor `json:"descriptor"`
	Asked      time.Time        `json:"asked"`
}

// key names a record: host, repository, kind and name.
type key [4]string

func (r records) path(k key) string {
	return filepath.Join(r.dir, "refs", escape(k[0]), escape(k[1]), k[2], escape(k[3]))
}

func (r records) load(k key) (record, bool) {
	var rec record
	raw, err := os.ReadFile(r.path(k))
	if err != nil || json.Unmarshal(raw, &rec) != nil || rec.Descriptor.Digest.Validate() != nil {
		return record{}, false
	}
	return rec, true
}

// save keeps what a place said when it was asked, unless it was changed from here since then.
func (r records) save(k key, d image.Descriptor, asked time.Time) error {
	return r.changes.unless(k, asked, func() error { return r.put(k, d, asked) })
}

// put keeps what identifies d, and nothing else that the place says of it.
func (r records) put(k key, d image.Descriptor, asked time.Time) error {
	rec := record{image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, asked}
	return r.replace(r.path(k), func(w io.Writer) error { return json.NewEncoder(w).Encode(rec) })
}

// remove forgets what is not there according to a place that was asked, unless it was changed from here since then.
func (r records) remove(k key, asked time.Time) {
	_ = r.changes.unless(k, asked, func() error { return r.drop(k) })
}

func (r records) drop(k key) error { return os.Remove(r.path(k)) }

// dropReferrers forgets all lists of a repository but that of its tags.
func (r records) dropReferrers(host, repository string) error {
	dir := filepath.Dir(r.path(key{host, repository, "lists", "tags"}))
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "tags" {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// names lists what was recorded below a host, or all hosts, in order.
func (r records) names(host ...string) []string {
	dir := filepath.Join(r.dir, "refs")
	for _, h := range host {
		dir = filepath.Join(dir, escape(h))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := unescape(e.Name()); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// escape makes a file name of any name: not two names the same one, not even where the file system ignores case, and none
// that means something to it. What would get too long is hashed; unescape does not know those.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		case c == '/':
			b.WriteByte(',')
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() == 0 || b.Len() > 255 {
		return fmt.Sprintf("%%%%%x", sha256.Sum256([]byte(name)))
	}
	return b.String()
}

func unescape(file string) (string, bool) {
	name, err := url.PathUnescape(strings.ReplaceAll(file, ",", "/"))
	return name, err == nil
}

// isDigest tells digests from tags.
func isDigest(ref string) bool { return digest.Digest(ref).Validate() == nil }

// listEnd is the last line of a listing. One without it was cut short by a power failure.
const listEnd = "null\n"

// openList opens a listing that was recorded whole, without its last line, and tells when it was.
func (r records) openList(k key) (*os.File, int64, time.Time, error) {
	file, err := os.Open(r.path(k))
	if err != nil {
		return nil, 0, time.Time{}, err
	}
	info, err := file.Stat()
	end := make([]byte, len(listEnd))
	if err == nil {
		_, err = file.ReadAt(end, info.Size()-int64(len(end)))
	}
	if err == nil && string(end) != listEnd {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		file.Close()
		return nil, 0, time.Time{}, err
	}
	return file, info.Size() - int64(len(end)), info.ModTime(), nil
}

// listed tells when a listing was recorded; the zero time where there is none.
func (r records) listed(k key) time.Time {
	file, _, asked, err := r.openList(k)
	if err != nil {
		return time.Time{}
	}
	file.Close()
	return asked
}

// list reads a recorded listing.
func list[T any](r records, k key) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		file, size, _, err := r.openList(k)
		if err != nil {
			yield(none, fmt.Errorf("recorded listing: %w", err))
			return
		}
		defer file.Close()
		for dec := json.NewDecoder(io.NewSectionReader(file, 0, size)); ; {
			var item T
			err := dec.Decode(&item)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(none, fmt.Errorf("recorded listing: %w", err))
				return
			}
			if !yield(item, nil) {
				return
			}
		}
	}
}

// maxList is the longest listing that is recorded, in bytes: millions of tags.
const maxList = 64 << 20

// capped fails when more is written to it than it may hold.
type capped struct {
	io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, io.ErrShortWrite
	}
	return c.Writer.Write(p)
}

// tee passes a listing through, and records it if it comes to its end without an error.
func tee[T any](r records, k key, items iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		asked := time.Now()
		temp, err := r.temp()
		if err != nil {
			items(yield)
			return
		}
		defer os.Remove(temp.Name())
		defer temp.Close()
		// A bufio.Writer keeps its first error for Flush.
		w := bufio.NewWriter(&capped{temp, maxList})
		enc := json.NewEncoder(w)
		for item, err := range items {
			if !yield(item, err) || err != nil {
				return
			}
			_ = enc.Encode(item)
		}
		w.WriteString(listEnd)
		if w.Flush() == nil {
			// The next listing asks the place again: only offline it is missed.
			_ = r.changes.unless(k, asked, func() error { return move(temp.Name(), r.path(k)) })
		}
	}
}
