package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// model is a root filesystem to which changesets are applied one after the other, as unpacking does. It knows files by their paths.
type model map[string]*modelFile

// modelFile is a file; hard links are one.
type modelFile struct {
	folder bool
	text   string
}

// apply applies a layer whose entries have each path once, and hard links last.
func (m model) apply(number int, entries []string) {
	below := maps.Clone(m)
	for _, e := range entries {
		p, _ := cutEntry(e)
		dir, name := path.Split(p)
		if name == opaqueName {
			m.remove(dir)
		} else if gone, ok := strings.CutPrefix(name, whiteoutPrefix); ok {
			delete(m, dir+gone)
			m.remove(dir + gone + "/")
		}
	}
	for _, e := range entries {
		m.add(number, e, below)
	}
}

// remove removes all paths that begin so.
func (m model) remove(prefix string) {
	maps.DeleteFunc(m, func(p string, _ *modelFile) bool { return strings.HasPrefix(p, prefix) })
}

// cutEntry parts an entry's path from the rest.
func cutEntry(e string) (p, rest string) {
	i := strings.IndexByte(e, ' ')
	if i < 0 {
		return strings.TrimSuffix(e, "/"), ""
	}
	return e[:i], e[i:]
}

func (m model) add(number int, e string, below model) {
	p, rest := cutEntry(e)
	dir, name := path.Split(p)
	m.imply(strings.TrimSuffix(dir, "/"))
	if isReserved(name) {
		return
	}
	target, isLink := strings.CutPrefix(rest, " => ")
	switch {
	case strings.HasSuffix(e, "/"):
		m.imply(p)
		m[p].text = fmt.Sprintf("folder @%d", number)
		return
	case !isLink && rest != "":
		m.put(p, &modelFile{text: fmt.Sprintf("%s @%d", rest[1:], number)})
	case !isLink:
		m.put(p, &modelFile{text: fmt.Sprintf("%s @%d", e, number)})
	default:
		m.link(p, target, number, below)
	}
}

// imply makes sure that there is a folder.
func (m model) imply(p string) {
	if p == "" {
		return
	}
	dir, _ := path.Split(p)
	m.imply(strings.TrimSuffix(dir, "/"))
	if m[p] == nil || !m[p].folder {
		m[p] = &modelFile{folder: true, text: "folder implied"}
	}
}

func (m model) put(p string, f *modelFile) {
	m.remove(p + "/")
	m[p] = f
}

// link makes a hard link, to a file of this layer if it has the target.
func (m model) link(p, target string, number int, below model) {
	delete(m, p)
	m.remove(p + "/")
	f := m[target]
	if own := f != nil && strings.HasSuffix(f.text, fmt.Sprintf(" @%d", number)); !own {
		f = below.reach(target)
	}
	if f != nil && !f.folder {
		m[p] = f
	}
}

// reach finds a file through symbolic links on the way.
func (m model) reach(p string) *modelFile {
	for range maxHops + 1 {
		i := -1
		for j := range p {
			if f := m[p[:j]]; p[j] == '/' && i < 0 && f != nil && strings.HasPrefix(f.text, "-> ") {
				i = j
			}
		}
		if i < 0 {
			return m[p]
		}
		target, _, _ := strings.Cut(m[p[:i]].text[3:], " ")
		p = path.Join(path.Dir(p[:i]), target) + p[i:]
	}
	return nil
}

// lines are as show has them.
func (m model) lines() (lines []string) {
	names := map[*modelFile]int{}
	for _, f := range m {
		names[f]++
	}
	order := func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
	}
	for _, p := range slices.SortedFunc(maps.Keys(m), order) {
		line := p + ": " + m[p].text
		if n := names[m[p]]; n > 1 {
			line += fmt.Sprintf(" ×%d", n)
		}
		lines = append(lines, line)
	}
	return lines
}

// randomLayers makes layers out of bytes. Few names are used, so that they meet.
func randomLayers(random []byte) (layers [][]string) {
	next := func(n int) int {
		if len(random) == 0 {
			return 0
		}
		b := random[0]
		random = random[1:]
		return int(b) % n
	}
	for len(random) > 0 && len(layers) < 8 {
		var entries, links []string
		has := map[string]byte{} // 'd' for folders, 'f' for others, 'h' for hard links
		for n := next(16); n >= 0 && len(random) > 0; n-- {
			p := randomPath(next)
			kind := next(8)
			switch {
			case has[p] == 'd' && kind != 0, has[p] != 0 && has[p] != 'd', isInFile(has, p):
			case kind == 0:
				if !slices.Contains(entries, p+"/") {
					entries = append(entries, p+"/")
				}
				has[p] = 'd'
			case kind == 1:
				entries, has[p] = append(entries, p+" -> "+randomPath(next)), 'f'
			case kind == 2:
				links, has[p] = append(links, p+" => "+randomPath(next)), 'h'
			case kind == 3:
				dir, name := path.Split(p)
				entries = addWhiteout(entries, dir+whiteoutPrefix+name)
			case kind == 4 && len(layers) > 0:
				entries = addWhiteout(entries, p+"/"+opaqueName)
				has[p] = 'd'
			default:
				entries, has[p] = append(entries, p), 'f'
			}
			for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
				if has[dir] == 0 {
					has[dir] = 'd'
				}
			}
		}
		// What a link to another link of its layer means, or through one, is the index's business.
		links = slices.DeleteFunc(links, func(l string) bool {
			_, to, _ := strings.Cut(l, " => ")
			return has[to] == 'h' || has[to] == 'd' || isInFile(has, to)
		})
		layers = append(layers, append(entries, links...))
	}
	return layers
}

func addWhiteout(entries []string, p string) []string {
	if slices.Contains(entries, p) {
		return entries
	}
	return append(entries, p)
}

func randomPath(next func(int) int) string {
	names := []string{"a", "b", "c"}
	p := names[next(3)]
	for depth := next(4); depth > 1; depth-- {
		p += "/" + names[next(3)]
	}
	return p
}

func isInFile(has map[string]byte, p string) bool {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if kind := has[dir]; kind != 0 && kind != 'd' {
			return true
		}
	}
	return false
}

// indexed are the files of a tar that is not compressed, read without Layers: always in the same way, as fuzzing wants it.
type indexed struct {
	*index
	tar []byte
}

func newIndexed(t *testing.T, store Store, pool *pagePool, tar []byte) indexed {
	t.Helper()
	file, err := scan(store, bytes.NewReader(tar))
	if err != nil {
		t.Fatal(err)
	}
	x, err := openIndex(file, pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.close)
	return indexed{x, tar}
}

func (f indexed) readAt(_ context.Context, ino inode, p []byte, off int64) (int, error) {
	r, err := f.record(ino)
	if err != nil {
		return 0, err
	}
	return io.NewSectionReader(bytes.NewReader(f.tar), r.data, r.size).ReadAt(p, off)
}

func (f indexed) release() {}

// equalsModel checks that merged layers are what applying them one after the other makes.
func equalsModel(t *testing.T, random []byte) {
	t.Helper()
	layers := randomLayers(random)
	want, all := model{}, []files{}
	store, pool := folderStore{t.TempDir()}, newPagePool(pagesMemory)
	for n, entries := range layers {
		want.apply(n, entries)
		all = append(all, newIndexed(t, store, pool, makeTar(t, n, entries)))
	}
	root := newRoot(len(layers), func(_ context.Context, n int) (files, error) { return all[n], nil }, func(int, string) {})
	if diff := cmp.Diff(want.lines(), show(t, root)); diff != "" {
		t.Errorf("%q:\n%s", layers, diff)
	}
}

func TestRootIsWhatUnpackingMakes(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		random := make([]byte, r.IntN(200))
		for i := range random {
			random[i] = byte(r.Uint32())
		}
		equalsModel(t, random)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzRoot(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		random := make([]byte, 150)
		for i := range random {
			random[i] = byte(r.Uint32())
		}
		f.Add(random)
	}
	f.Fuzz(equalsModel)
}
