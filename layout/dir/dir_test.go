package dir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/image"
)

func TestOpenRefuses(t *testing.T) {
	v1_1 := version1_1.String()
	for name, test := range map[string]struct {
		files map[string]string
		want  error
	}{
		"an empty folder":        {nil, image.ErrInvalid},
		"another folder":         {map[string]string{"readme": "hello"}, image.ErrInvalid},
		"an unfinished one":      {map[string]string{strings.Repeat("a", 64): ""}, image.ErrInvalid},
		"another version":        {map[string]string{"version": "1.1\n"}, image.ErrInvalid},
		"more than a version":    {map[string]string{"version": v1_1 + "x"}, image.ErrInvalid},
		"a later version":        {map[string]string{"version": "Directory Transport Version: 1.3\n"}, image.ErrUnsupported},
		"a much later version":   {map[string]string{"version": "Directory Transport Version: 2.0\n"}, image.ErrUnsupported},
		"a huge version":         {map[string]string{"version": v1_1 + strings.Repeat(" ", maxVersionFile)}, image.ErrInvalid},
		"an impossible version":  {map[string]string{"version": "Directory Transport Version: 99999999999999999999.1\n"}, image.ErrInvalid},
		"a version without sign": {map[string]string{"version": "Directory Transport Version: +1.1\n"}, image.ErrInvalid},
	} {
		path := t.TempDir()
		for file, content := range test.files {
			writeFile(t, content, path, file)
		}
		_, err := Open(path)
		wantErr(t, name, err, test.want)
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
	_, err := Open(filepath.Join(t.TempDir(), "missing"))
	wantErr(t, "a missing folder", err, image.ErrNotFound)
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, "", file)
	if _, err := Open(file); err == nil {
		t.Error("a file is a folder of an image")
	}
}

// TestOldFolder has no version, as those that skopeo wrote first.
func TestOldFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	p := paint(digest.SHA256, "amd64", "hello")
	must(t, p.write(t.Context(), create(t, path)))
	want(t, "version", readFile(t, path, "version"), "Directory Transport Version: 1.1\n")
	must(t, os.Remove(filepath.Join(path, "version")))
	reads(t, "without a version", path, p)
}

// TestCreateLeavesOtherFolders alone.
func TestCreateLeavesOtherFolders(t *testing.T) {
	path := t.TempDir()
	writeFile(t, "hello", path, "readme")
	_, err := Create(path)
	wantErr(t, "create in another folder", err, image.ErrInvalid)
	entries, err := os.ReadDir(path)
	must(t, err)
	want(t, "files", len(entries), 1)
}

// TestUnfinished folders say so, and take an image.
func TestUnfinished(t *testing.T) {
	path := t.TempDir()
	writeFile(t, "Direc", path, ".regfs-x")
	x := create(t, path)
	_, err := x.Resolve(t.Context(), "")
	wantErr(t, "resolve", err, image.ErrNotFound)
	p := paint(digest.SHA256, "amd64", "hello")
	must(t, p.push(t.Context(), x))
	_, err = x.Resolve(t.Context(), "")
	if wantErr(t, "resolve", err, image.ErrNotFound); !strings.Contains(err.Error(), "finished") {
		t.Errorf("%v does not say that it is not finished", err)
	}
	must(t, os.Remove(filepath.Join(path, ".regfs-x")))
	must(t, p.write(t.Context(), create(t, path)))
	holds(t, "finished", path, p)
}

func TestNames(t *testing.T) {
	x := create(t, t.TempDir())
	p := paint(digest.SHA256, "amd64", "hello")
	must(t, p.write(t.Context(), x))
	err := x.Tag(t.Context(), p.d, p.raw, "v1")
	if wantErr(t, "tag", err, image.ErrUnsupported); !strings.Contains(err.Error(), "no tags") {
		t.Errorf("%v does not say that there are no tags", err)
	}
	_, err = x.Resolve(t.Context(), "v1")
	wantErr(t, "resolve a tag", err, image.ErrNotFound)
	wantErr(t, "delete", x.Delete(t.Context(), p.d.Digest.String()), image.ErrUnsupported)
	for _, part := range p.parts {
		_, err = x.Resolve(t.Context(), part.Digest.String())
		wantErr(t, "resolve a blob", err, image.ErrNotFound)
	}
}

// TestReplace one image by another, which has some of the same.
func TestReplace(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	amd, arm := paint(digest.SHA256, "amd64", "a", "b"), paint(digest.SHA256, "arm64", "b", "c")
	for i, p := range []picture{amd, arm, arm, several(amd, arm), amd, several(amd, arm), several(arm), paint(digest.SHA256, "amd64")} {
		must(t, p.write(t.Context(), x))
		holds(t, string(rune('0'+i)), path, p)
	}
}

// TestReplaceDamaged: what can't be read can be replaced.
func TestReplaceDamaged(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	p := paint(digest.SHA256, "amd64", "a")
	must(t, p.write(t.Context(), x))
	writeFile(t, "{", path, manifestFile)
	_, err := x.Resolve(t.Context(), "")
	wantErr(t, "resolve", err, image.ErrInvalid)
	must(t, p.write(t.Context(), x))
	holds(t, "replaced", path, p)
}

// TestMissing: an image is not written without what it needs, and the old one stays.
func TestMissing(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	old, p := paint(digest.SHA256, "amd64", "a"), paint(digest.SHA256, "amd64", "a", "b")
	must(t, old.write(t.Context(), x))
	wantErr(t, "tag", x.Tag(t.Context(), p.d, p.raw, ""), image.ErrRefused)
	reads(t, "after that", path, old)
	// An index may list what is not copied.
	x = create(t, t.TempDir())
	both := several(old, p)
	must(t, old.push(t.Context(), x))
	_, err := x.Push(t.Context(), old.d, bring(old.raw))
	must(t, err)
	must(t, x.Tag(t.Context(), both.d, both.raw, ""))
	_, err = x.Resolve(t.Context(), p.d.Digest.String())
	wantErr(t, "resolve what was not copied", err, image.ErrNotFound)
}

// TestCollect removes what no image came of when it is old, and nothing that is not of an image.
func TestCollect(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	then := time.Now().Add(-48 * time.Hour)
	for name, old := range map[string]bool{
		strings.Repeat("a", 64): true, strings.Repeat("b", 64): false, "readme": true, ".regfs-old": true, ".regfs-new": false,
		strings.Repeat("c", 64) + ".manifest.json": true, strings.Repeat("c", 64) + ".signature-1": true, strings.Repeat("d", 63): true,
	} {
		writeFile(t, "", path, name)
		if old {
			must(t, os.Chtimes(filepath.Join(path, name), then, then))
		}
	}
	p := paint(digest.SHA256, "amd64")
	must(t, p.write(t.Context(), x))
	for _, name := range []string{strings.Repeat("b", 64), "readme", ".regfs-new", strings.Repeat("d", 63)} {
		must(t, os.Remove(filepath.Join(path, name)))
	}
	holds(t, "all else", path, p)
}

// TestOtherDigests are named as newer skopeos name them.
func TestOtherDigests(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	long, short := paint(digest.SHA512, "amd64", "a"), paint(digest.SHA256, "amd64", "a")
	both := several(long)
	must(t, both.write(t.Context(), x))
	holds(t, "sha512", path, both)
	want(t, "version", readFile(t, path, "version"), "Directory Transport Version: 1.2\n")
	if name := instanceFile(long.d.Digest); !strings.HasPrefix(name, "sha512-") || len(name) != len("sha512-.manifest.json")+128 {
		t.Errorf("a manifest is in %s", name)
	}
	d, err := x.Resolve(t.Context(), both.d.Digest.String())
	must(t, err)
	want(t, "digest", d, both.d)
	must(t, short.write(t.Context(), x))
	holds(t, "sha256", path, short)
	want(t, "version", readFile(t, path, "version"), "Directory Transport Version: 1.1\n")
}

func TestSignatures(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	amd, arm := paint(digest.SHA256, "amd64", "a"), paint(digest.SHA256, "arm64", "a")
	both := several(amd, arm)
	must(t, both.write(t.Context(), x))
	writeFile(t, "one", path, "signature-1")
	writeFile(t, "two", path, "signature-2")
	writeFile(t, "four", path, "signature-4")
	writeFile(t, "arm", path, arm.d.Digest.Encoded()+".signature-1")
	check := func(what string, p picture, all ...string) {
		t.Helper()
		got, err := x.Signatures(t.Context(), p.d.Digest)
		must(t, err)
		var texts []string
		for _, s := range got {
			texts = append(texts, string(s))
		}
		want(t, what, texts, all)
	}
	check("of the image", both, "one", "two")
	check("of what is below", arm, "arm")
	check("of what nobody signed", amd)
	must(t, both.write(t.Context(), x))
	check("written once more", both, "one", "two")
	_, err := x.Signatures(t.Context(), digest.FromString("x"))
	wantErr(t, "of what is not there", err, image.ErrNotFound)
	must(t, arm.write(t.Context(), x))
	check("of another image", arm)
	holds(t, "another image", path, arm)
	writeFile(t, strings.Repeat("x", maxSignatures/2+1), path, "signature-1")
	writeFile(t, strings.Repeat("x", maxSignatures/2+1), path, "signature-2")
	_, err = x.Signatures(t.Context(), arm.d.Digest)
	wantErr(t, "too much", err, image.ErrInvalid)
}

// TestSignaturesOfAnother are not taken for an image's, wherever the writer was killed.
func TestSignaturesOfAnother(t *testing.T) {
	old, p := paint(digest.SHA256, "amd64", "a"), paint(digest.SHA256, "arm64", "a")
	for what, test := range map[string]struct {
		is, pending picture
		signatures  int
	}{"before": {old, p, 1}, "after": {p, p, 0}} {
		path := t.TempDir()
		x := create(t, path)
		must(t, test.is.write(t.Context(), x))
		writeFile(t, "old", path, "signature-1")
		writeFile(t, test.pending.d.Digest.String()+"\n", path, pendingFile)
		got, err := x.Signatures(t.Context(), test.is.d.Digest)
		must(t, err)
		want(t, what, len(got), test.signatures)
		must(t, p.write(t.Context(), x))
		holds(t, what+": the next writer brings it to an end", path, p)
	}
}

// TestSchema1 is known by the digest of what was signed.
func TestSchema1(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	layer := digest.FromString("layer")
	_, err := x.Push(t.Context(), image.Descriptor{MediaType: "x", Digest: layer, Size: 5}, bring([]byte("layer")))
	must(t, err)
	const head, tail = "{\"schemaVersion\": 1,\n\"fsLayers\": [{\"blobSum\": \"%\"}]", "\n}"
	body := strings.Replace(head, "%", layer.String(), 1)
	protected := `{"formatLength":` + itoa(len(body)) + `,"formatTail":"Cn0"}`
	raw := []byte(body + ",\n\"signatures\": [{\"protected\": \"" + b64(protected) + "\"}]\n}")
	d := image.Descriptor{MediaType: image.MediaTypeDockerSchema1Signed, Digest: digest.FromString(body + tail), Size: int64(len(raw))}
	must(t, x.Tag(t.Context(), d, raw, ""))
	got, back, err := x.Manifest(t.Context(), "")
	must(t, err)
	want(t, "descriptor", got, d)
	want(t, "bytes", string(back), string(raw))
	text, err := read(t, x, d)
	if err != nil || text != string(raw) {
		t.Errorf("fetch: %q, %v", text, err)
	}
}

// TestNothingOutside: symlinks that lead out of the folder are not followed, for reading nor for writing.
func TestNothingOutside(t *testing.T) {
	outside, path := t.TempDir(), t.TempDir()
	x := create(t, path)
	p := paint(digest.SHA256, "amd64", "a")
	must(t, p.write(t.Context(), x))
	for _, name := range append(p.names(), versionFile) {
		must(t, os.Rename(filepath.Join(path, name), filepath.Join(outside, name)))
		must(t, os.Symlink(filepath.Join(outside, name), filepath.Join(path, name)))
	}
	if _, err := x.Resolve(t.Context(), ""); err == nil {
		t.Error("a manifest was read through a symlink")
	}
	for _, part := range p.parts {
		if _, err := x.Stat(t.Context(), part.Digest); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a blob was looked for through a symlink: %v", err)
		}
	}
	if _, err := Open(path); err == nil {
		t.Error("a version was read through a symlink")
	}
}

// TestNobodyWaits for a fifo, or takes a folder for a file.
func TestNobodyWaits(t *testing.T) {
	path := t.TempDir()
	x := create(t, path)
	fifo, folder := digest.FromString("fifo"), digest.FromString("folder")
	must(t, unix.Mkfifo(filepath.Join(path, blobFile(fifo)), 0o644))
	must(t, os.Mkdir(filepath.Join(path, blobFile(folder)), 0o755))
	must(t, unix.Mkfifo(filepath.Join(path, manifestFile), 0o644))
	for _, dgst := range []digest.Digest{fifo, folder} {
		_, err := x.Stat(t.Context(), dgst)
		wantErr(t, "stat", err, image.ErrInvalid)
	}
	_, err := x.Resolve(t.Context(), "")
	wantErr(t, "resolve", err, image.ErrInvalid)
	d := image.Descriptor{MediaType: "text/plain", Digest: fifo, Size: 4}
	if how, err := x.Push(t.Context(), d, bring([]byte("fifo"))); how != image.Uploaded || err != nil {
		t.Errorf("push in the place of a fifo: %s, %v", how, err)
	}
}

// TestReadingGoesOn when the image is replaced, and when the folder is closed.
func TestReadingGoesOn(t *testing.T) {
	path := t.TempDir()
	x, err := Create(path)
	must(t, err)
	p := paint(digest.SHA256, "amd64", "some text")
	must(t, p.write(t.Context(), x))
	d := image.Descriptor{Digest: digest.FromString("some text"), Size: 9}
	r, err := x.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	must(t, paint(digest.SHA256, "amd64").write(t.Context(), x))
	must(t, x.Close())
	raw, err := io.ReadAll(r)
	if err != nil || string(raw) != "some text" {
		t.Errorf("read %q, %v", raw, err)
	}
}
