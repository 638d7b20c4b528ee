package layer

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

func TestOnlyNeededLayersAreOpened(t *testing.T) {
	layers := [][]string{
		{"./", "a", "dir/", "dir/low", "gone", "link", "low", "new/", "new/low"},
		{"a", "dir/", "dir/middle", "link => low", "opaque/", "opaque/.wh..wh..opq", "top => low"},
		{"a", "dir/", "dir/a", ".wh.gone", "dir/.wh.b", ".wh.new", "new/", "new/a", "top"},
	}
	tests := map[string]struct {
		use  func(File) error
		want []int
	}{
		"nothing":                           {func(f File) error { return nil }, nil},
		"a file of the top layer":           {stat(t, "a"), []int{2}},
		"that one's content":                {read(t, "a"), []int{2}},
		"a name that nothing can have":      {look(t, ".wh.gone"), nil},
		"what the top layer removes":        {look(t, "gone"), []int{2}},
		"a folder of the top layer":         {stat(t, "dir"), []int{2}},
		"a file in that":                    {stat(t, "dir/a"), []int{2}},
		"what it removes in that":           {look(t, "dir/b"), []int{2}},
		"a file in what is below that":      {stat(t, "dir/middle"), []int{1, 2}},
		"a file at the bottom":              {stat(t, "dir/low"), []int{0, 1, 2}},
		"no file":                           {look(t, "dir/nothing"), []int{0, 1, 2}},
		"all of a folder":                   {namesIn(t, "dir"), []int{0, 1, 2}},
		"all of one made anew":              {namesIn(t, "new"), []int{2}},
		"all of one that a lower one hides": {namesIn(t, "opaque"), []int{1, 2}},
		"no file in one":                    {look(t, "opaque/nothing"), []int{1, 2}},
		"the root":                          {stat(t, ""), []int{0, 1, 2}},
		"a hard link":                       {look(t, "link"), []int{0, 1, 2}},
		"in place of one":                   {stat(t, "top"), []int{2}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, layers...)
			if err := test.use(s.root()); err != nil && !isMissing(err) {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, s.names()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func look(t *testing.T, path string) func(File) error {
	return func(f File) error { _, err := lookPath(t.Context(), f, path); return err }
}

func on(t *testing.T, path string, use func(File) error) func(File) error {
	return func(f File) (err error) {
		if path != "" {
			f, err = lookPath(t.Context(), f, path)
		}
		if err != nil {
			return err
		}
		return use(f)
	}
}

func stat(t *testing.T, path string) func(File) error {
	return on(t, path, func(f File) error { _, err := f.Stat(t.Context()); return err })
}

func attributes(t *testing.T, path string) func(File) error {
	return on(t, path, func(f File) error { _, err := f.Xattrs(t.Context()); return err })
}

func read(t *testing.T, path string) func(File) error {
	return on(t, path, func(f File) error { _, err := f.ReadAt(t.Context(), make([]byte, 1), 0); return err })
}

func namesIn(t *testing.T, path string) func(File) error {
	return on(t, path, func(f File) (last error) {
		for _, err := range f.List(t.Context()) {
			if last != nil {
				t.Error("a listing goes on after an error")
			}
			last = err
		}
		return last
	})
}

// everyUse of a folder fails.
func everyUse(t *testing.T, f File, want error) {
	t.Helper()
	for name, use := range map[string]func(File) error{
		"stat": stat(t, ""), "xattrs": attributes(t, ""), "lookup": look(t, "a"), "list": namesIn(t, ""),
	} {
		if err := use(f); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// breakLayer makes one layer missing, or no tar.
func (s *stack) breakLayer(n int, missing bool) (want error) {
	if missing {
		s.layers[n].Digest = digest.FromString("missing")
		return image.ErrUnavailable
	}
	s.layers[n] = s.place.add([]byte("no tar"))
	return image.ErrInvalid
}

func TestBrokenLayer(t *testing.T) {
	layers := [][]string{{"./", "a", "b/", "b/c", "l"}, {"./", "b/", "b/d", "e", "m => l"}, {"./", "b/", "b/f", "g", ".wh.h"}}
	uses := map[string]func(File) error{
		"stat of the root": stat(t, ""), "list of the root": namesIn(t, ""), "stat of b": stat(t, "b"), "list of b": namesIn(t, "b"),
		"a": stat(t, "a"), "b/c": read(t, "b/c"), "b/d": read(t, "b/d"), "b/f": read(t, "b/f"), "e": stat(t, "e"), "g": stat(t, "g"),
		"h": look(t, "h"), "m": look(t, "m"),
	}
	works := map[int]map[string]bool{
		0: {"stat of the root": true, "stat of b": true, "b/d": true, "b/f": true, "e": true, "g": true, "h": true},
		1: {"stat of the root": true, "stat of b": true, "b/f": true, "g": true, "h": true},
		2: {},
	}
	for broken, works := range works {
		for _, missing := range []bool{true, false} {
			s := newStack(t, layers...)
			whole := s.layers[broken]
			want := s.breakLayer(broken, missing)
			root := s.root()
			for range 2 { // an error is not forgotten
				for name, use := range uses {
					err := use(root)
					if works[name] && err != nil && !isMissing(err) || !works[name] && (!errors.Is(err, want) || isMissing(err)) {
						t.Errorf("layer %d is broken, %s: %v", broken, name, err)
					}
				}
			}
			s.layers[broken] = whole
			for name, use := range uses { // but it is over when it is over
				if err := use(root); err != nil && !isMissing(err) {
					t.Errorf("layer %d is whole again, %s: %v", broken, name, err)
				}
			}
		}
	}
}
