package layer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTree(t *testing.T) {
	tests := map[string]struct {
		layer     []string
		asNames   []string
		asOverlay []string
	}{
		"no whiteouts": {
			[]string{"a/", "a/b", "c -> a", "d => a/b"},
			[]string{"a: folder @0", "a/b: a/b @0 ×2", "c: -> a @0", "d: a/b @0 ×2"},
			[]string{"a: folder @0", "a/b: a/b @0 ×2", "c: -> a @0", "d: a/b @0 ×2"},
		},
		"a whiteout": {
			[]string{".wh.a", "b/", "b/.wh.c"},
			[]string{".wh.a: .wh.a @0", "b: folder @0", "b/.wh.c: b/.wh.c @0"},
			[]string{"a: device 0/0", "b: folder @0", "b/c: device 0/0"},
		},
		"a whiteout beside its name": {
			[]string{".wh.a", "a"},
			[]string{".wh.a: .wh.a @0", "a: a @0"},
			[]string{"a: a @0"},
		},
		"a whiteout beside its folder": {
			[]string{".wh.a", "a/", "a/b"},
			[]string{".wh.a: .wh.a @0", "a: folder @0", "a/b: a/b @0"},
			[]string{"a: folder @0 opaque=y", "a/b: a/b @0"},
		},
		"a whiteout beside a folder that no entry describes": {
			[]string{"a/b", ".wh.a"},
			[]string{".wh.a: .wh.a @0", "a: folder implied", "a/b: a/b @0"},
			[]string{"a: folder implied opaque=y", "a/b: a/b @0"},
		},
		"an opaque folder": {
			[]string{"a/", "a/.wh..wh..opq", "a/b"},
			[]string{"a: folder @0", "a/.wh..wh..opq: a/.wh..wh..opq @0", "a/b: a/b @0"},
			[]string{"a: folder @0 opaque=y", "a/b: a/b @0"},
		},
		"what aufs keeps": {
			[]string{".wh..wh.aufs", ".wh..wh.orph/", ".wh..wh.plnk/", ".wh..wh.plnk/1", "a => .wh..wh.plnk/1"},
			[]string{".wh..wh.aufs: .wh..wh.aufs @0", ".wh..wh.orph: folder @0", ".wh..wh.plnk: folder @0",
				".wh..wh.plnk/1: .wh..wh.plnk/1 @0 ×2", "a: .wh..wh.plnk/1 @0 ×2"},
			[]string{"a: .wh..wh.plnk/1 @0"},
		},
		"whiteouts that are hard links": {
			[]string{".wh..wh.aufs", ".wh.a => .wh..wh.aufs", ".wh.b => .wh..wh.aufs", "c/.wh.d => .wh..wh.aufs", "e => .wh..wh.aufs", "b"},
			[]string{".wh..wh.aufs: .wh..wh.aufs @0 ×5", ".wh.a: .wh..wh.aufs @0 ×5", ".wh.b: .wh..wh.aufs @0 ×5", "b: b @0",
				"c: folder implied", "c/.wh.d: .wh..wh.aufs @0 ×5", "e: .wh..wh.aufs @0 ×5"},
			[]string{"a: device 0/0 ×2", "b: b @0", "c: folder implied", "c/d: device 0/0 ×2", "e: .wh..wh.aufs @0"},
		},
		"hard links to lower layers": {
			[]string{"a => nothing", ".wh.b => nothing", "b => nothing", "c"},
			[]string{"c: c @0"},
			[]string{"b: device 0/0", "c: c @0"},
		},
		"whiteouts that are no regular files": {
			[]string{".wh.a/", ".wh.a/x", ".wh.b -> c"},
			[]string{".wh.a: folder @0", ".wh.a/x: .wh.a/x @0", ".wh.b: -> c @0"},
			[]string{"a: device 0/0", "b: device 0/0"},
		},
		"whiteouts of what is no name": {
			[]string{".wh.", ".wh..", ".wh...", ".wh.wh.a"},
			[]string{".wh.: .wh. @0", ".wh..: .wh.. @0", ".wh...: .wh... @0", ".wh.wh.a: .wh.wh.a @0"},
			[]string{"wh.a: device 0/0"},
		},
		"the order of names": {
			[]string{".wh.b", "a", "c", ".wh.-", ".wh.\xff", ".wh.é", "\x01", ".a", "z", "b-"},
			[]string{"\x01: \x01 @0", ".a: .a @0", ".wh.-: .wh.- @0", ".wh.b: .wh.b @0", ".wh.é: .wh.é @0", ".wh.\xff: .wh.\xff @0",
				"a: a @0", "b-: b- @0", "c: c @0", "z: z @0"},
			[]string{"\x01: \x01 @0", "-: device 0/0", ".a: .a @0", "a: a @0", "b: device 0/0", "b-: b- @0", "c: c @0", "z: z @0",
				"é: device 0/0", "\xff: device 0/0"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, test.layer)
			if diff := cmp.Diff(test.asNames, show(t, s.tree(0, AsNames))); diff != "" {
				t.Error("as names:", diff)
			}
			if diff := cmp.Diff(test.asOverlay, show(t, s.tree(0, AsOverlay))); diff != "" {
				t.Error("as overlay:", diff)
			}
		})
	}
}

func TestTreeLookup(t *testing.T) {
	s := newStack(t, []string{".wh.a", ".wh..wh..opq", ".wh..wh.aufs", ".wh.", ".wh..", ".wh...", "b", "c => nothing"})
	tests := map[string]struct{ asNames, asOverlay bool }{
		".wh.a":        {true, false},
		"a":            {false, true},
		".wh..wh..opq": {true, false},
		".wh..wh.aufs": {true, false},
		".wh..opq":     {false, false},
		".wh.aufs":     {false, false},
		"":             {false, false},
		".":            {false, false},
		"..":           {false, false},
		"b":            {true, true},
		"b/":           {false, false},
		"c":            {false, false},
	}
	for name, test := range tests {
		for w, want := range map[Whiteouts]bool{AsNames: test.asNames, AsOverlay: test.asOverlay} {
			_, err := s.tree(0, w).Lookup(t.Context(), name)
			if found := err == nil; found != want || !found && !isMissing(err) {
				t.Errorf("%q: %v, want found: %v", name, err, want)
			}
		}
	}
}

func TestTreeOfOpaqueRoot(t *testing.T) {
	s := newStack(t, []string{"./", ".wh..wh..opq"})
	for w, want := range map[Whiteouts]map[string]string{
		AsNames:   {"user.layer": "0"},
		AsOverlay: {"user.layer": "0", "trusted.overlay.opaque": "y"},
	} {
		got, err := s.tree(0, w).Xattrs(t.Context())
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
}

func TestTreeOfBrokenLayer(t *testing.T) {
	for _, missing := range []bool{true, false} {
		s := newStack(t, []string{"a"})
		want := s.breakLayer(0, missing)
		everyUse(t, s.tree(0, AsOverlay), want)
	}
}

func TestWhiteoutIsNoFile(t *testing.T) {
	s := newStack(t, []string{".wh.a/", ".wh.a/b"})
	f, err := s.tree(0, AsOverlay).Lookup(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lookup(t.Context(), "b"); !isMissing(err) {
		t.Errorf("a file is in a whiteout: %v", err)
	}
	for e, err := range f.List(t.Context()) {
		t.Errorf("a file is listed in a whiteout: %v, %v", e, err)
	}
	if _, err := f.ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
		t.Error("a whiteout was read")
	}
}
