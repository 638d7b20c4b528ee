package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/registry"
)

// printed runs the program here and returns what it printed to stdout. It prints nothing to stderr.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("regfs %s: exit %d\n%s", strings.Join(args, " "), code, &stderr)
	}
	return stdout.String()
}

// filled is a cache that has the image of source in it, what its registry said, an index and some spans; and how much that is.
func filled(t *testing.T) (dir string, usage cache.Usage) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "cache")
	store, err := cache.New(cache.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	keepImage(t, store)
	keepLayer(t, store)
	usage, err = cache.Look(dir)
	if err != nil || usage.Blobs.Files == 0 || usage.Indexes.Files == 0 || usage.Spans.Files == 0 || usage.Records.Files == 0 {
		t.Fatalf("%+v, %v", usage, err)
	}
	return dir, usage
}

func keepImage(t *testing.T, store *cache.Cache) {
	t.Helper()
	r, _ := source(t)
	client := registry.New(registry.Options{Timeout: 10 * time.Second, Insecure: []string{r.Host}})
	defer client.Close()
	n, err := parseRef("docker://" + r.Host + "/hello:v1")
	if err != nil {
		t.Fatal(err)
	}
	src, err := (&places{registry: store.Through(client.Host)}).source(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	root, err := find(t.Context(), n, src)
	if err != nil {
		t.Fatal(err)
	}
	err = image.Walk(t.Context(), src, root, func(d image.Descriptor, _ *image.Manifest, err error) error {
		if err != nil || image.IsManifest(d.MediaType) {
			return err
		}
		b, err := store.Open(t.Context(), src, d)
		if err != nil {
			return err
		}
		defer b.Close()
		_, err = b.ReadAt(t.Context(), make([]byte, d.Size), 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func keepLayer(t *testing.T, store *cache.Cache) {
	t.Helper()
	index, err := store.Temp()
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	spans, err := store.Spans("a")
	if err != nil {
		t.Fatal(err)
	}
	defer spans.Close()
	for _, f := range []*os.File{index, spans} {
		if _, err := f.Write(bytes.Repeat([]byte("x"), 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.PutIndex("a", index); err != nil {
		t.Fatal(err)
	}
}

// words are the fields of each line.
func words(text string) [][]string {
	var all [][]string
	for line := range strings.Lines(text) {
		all = append(all, strings.Fields(line))
	}
	return all
}

func TestCacheShows(t *testing.T) {
	dir, u := filled(t)
	row := func(name string, files string, bytes int64) []string {
		return append([]string{name, files}, strings.Fields(binary(bytes))...)
	}
	want := [][]string{
		{dir},
		{"kept", "files", "size"},
		// Three platforms' manifest, config and layer, their index, and a layer that all have.
		row("blobs", "11", u.Blobs.Bytes),
		row("unfinished", "0", 0),
		row("indexes", "1", 12<<10),
		row("spans", "1", 12<<10),
		row("records", "5", u.Records.Bytes),
		row("total", "18", u.Total().Bytes),
	}
	if diff := cmp.Diff(want, words(printed(t, "cache", "--cache-dir", dir))); diff != "" {
		t.Error(diff)
	}
}

func TestCacheShowsJSON(t *testing.T) {
	dir, u := filled(t)
	amount := func(a cache.Amount) any { return map[string]any{"files": float64(a.Files), "bytes": float64(a.Bytes)} }
	want := map[string]any{
		"folder": dir, "blobs": amount(u.Blobs), "unfinished": amount(u.Unfinished), "indexes": amount(u.Indexes),
		"spans": amount(u.Spans), "records": amount(u.Records), "total": amount(u.Total()), "limits": []any{},
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(printed(t, "cache", "--json", "--cache-dir", dir)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// age makes all that a cache keeps older.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	old := time.Now().Add(-by)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chtimes(path, time.Time{}, old)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrune(t *testing.T) {
	dir, before := filled(t)
	prune := func(args ...string) string {
		return printed(t, append([]string{"cache", "prune", "--cache-dir", dir}, args...)...)
	}
	age(t, filepath.Join(dir, "layers"), 48*time.Hour)
	if said := prune("--older-than", "3d"); said != "nothing to remove\n" {
		t.Errorf("older than all: %s", said)
	}
	want := [][]string{{"removed", "files", "size"}, {"indexes", "1", "12", "KiB"}, {"spans", "1", "12", "KiB"}, {"total", "2", "24", "KiB"}}
	if diff := cmp.Diff(want, words(prune("--older-than", "36h"))); diff != "" {
		t.Error(diff)
	}
	prune("--size", "20K")
	after, err := cache.Look(dir)
	if err != nil || after.Total().Bytes > 20<<10 || after.Records != before.Records {
		t.Errorf("of %+v is left %+v, %v", before, after, err)
	}
	prune("--all")
	if after, err := cache.Look(dir); err != nil || after.Total().Files > 0 {
		t.Errorf("of all is left %+v, %v", after, err)
	}
	if said := prune("--all"); said != "nothing to remove\n" {
		t.Errorf("of nothing: %s", said)
	}
}

// TestNoCache: a folder that was never used is empty, one that is said by name and is no cache is a mistake.
func TestNoCache(t *testing.T) {
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout")
	r, dgst := source(t)
	copyTo(t, 0, "docker://"+r.Host+"/hello:v1", "oci:"+layout)
	for _, command := range [][]string{{"cache"}, {"cache", "prune", "--all"}} {
		for folder, says := range map[string]string{
			filepath.Join(dir, "missing"):       "no such file",
			layout:                              "is no cache of regfs",
			filepath.Join(layout, "oci-layout"): "is no cache of regfs",
		} {
			said := regfs(t, 1, append(command, "--cache-dir", folder)...)
			if !strings.HasPrefix(said, "regfs: cache: ") || !strings.Contains(said, says) || strings.Count(said, "\n") != 1 {
				t.Errorf("regfs %v in %s says %s", command, folder, said)
			}
		}
	}
	whole(t, "oci:"+layout, dgst)
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking makes a cache: %v", err)
	}
}

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "12h": 12 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "65535d": 65535 * 24 * time.Hour,
		"": 0, "0": 0, "0d": 0, "-1h": 0, "-1d": 0, "d": 0, "30": 0, "1.5d": 0, "65536d": 0, "1w": 0, "NaNd": 0,
	} {
		got, err := parseAge(s)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseAge(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
}
