package sif

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

const recipe = `Bootstrap: docker
From: alpine

%environment
    # a comment
    export A=1

%runscript
    echo hello

    exit 3
%labels
    x y
`

func TestImage(t *testing.T) {
	files := []string{"./", "./etc/", "./etc/passwd"}
	for name, test := range map[string]struct {
		parts  []part
		files  []string
		cmd    string
		script []string
	}{
		"plain": {nil, files, "bash", nil},
		"of a definition": {[]part{definition(recipe)}, files, "/podman/runscript", []string{
			"./podman/ 755 0:0 1200000000 \"\"",
			`./podman/runscript 755 0:0 1200000000 "#!/bin/bash\nexport A=1\necho hello\n\nexit 3\n"`,
		}},
		"with a folder for the script": {[]part{definition("%runscript\n x")}, append(slices.Clone(files), "./podman/"), "/podman/runscript", []string{
			`./podman/runscript 755 0:0 1200000000 "#!/bin/bash\n\nx\n"`,
		}},
		"of a definition that says nothing": {[]part{definition("%post\n x\n%environment\n#\n")}, files, "bash", nil},
		"of two definitions":                {[]part{definition(recipe), definition(recipe)}, files, "bash", nil},
	} {
		raw := archive(test.files...)
		path := write(t, build(append(test.parts, partition(squash(t, raw)))...))
		manifest, config, layer := all(t, open(t, path, Options{TempDir: t.TempDir()}))
		want(t, name, list(t, layer), append(list(t, raw), test.script...))
		want(t, name, config.Config.Cmd, []string{test.cmd})
		want(t, name, config.Architecture+" "+config.OS, "amd64 linux")
		want(t, name, *config.Created, time.Unix(1_200_000_000, 0).UTC())
		want(t, name, config.History[0].Comment, "imported from SIF, uuid: 01234567-89ab-cdef-0123-456789abcdef")
		again, _, _ := all(t, open(t, path, Options{}))
		want(t, name+", again", again, manifest)
	}
}

// TestLikeSkopeo: the config is what skopeo makes of the same file, but for the layer's digest: the tars have other headers.
func TestLikeSkopeo(t *testing.T) {
	for _, program := range []string{"skopeo", "unsquashfs", "fakeroot"} {
		need(t, program)
	}
	path := write(t, build(definition(recipe), partition(squash(t, archive("./", "./etc/", "./etc/passwd")))))
	src := open(t, path, Options{})
	_, config, layer := all(t, src)
	folder := t.TempDir()
	cmd := exec.Command("skopeo", "--insecure-policy", "copy", "sif:"+path, "dir:"+folder)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	must(t, err)
	m, err := image.ParseManifest("", raw)
	must(t, err)
	raw, err = os.ReadFile(filepath.Join(folder, m.Config.Digest.Encoded()))
	must(t, err)
	theirs := config.RootFS.DiffIDs[0]
	var other v1.Image
	must(t, json.Unmarshal(raw, &other))
	ours, err := json.Marshal(config)
	must(t, err)
	want(t, "config", strings.ReplaceAll(string(ours), theirs.Encoded(), other.RootFS.DiffIDs[0].Encoded()), string(raw))
	var names [2][]string
	theirLayer, err := os.ReadFile(filepath.Join(folder, m.Layers[0].Digest.Encoded()))
	must(t, err)
	for i, raw := range [][]byte{layer, theirLayer} {
		for _, line := range list(t, raw) {
			names[i] = append(names[i], strings.Fields(line)[0])
		}
		slices.Sort(names[i])
	}
	want(t, "files", names[0], names[1])
}

func TestOpenRefuses(t *testing.T) {
	good := build(definition(recipe), partition([]byte("hsqs and so on")))
	changed := func(at int, text string) []byte {
		raw := slices.Clone(good)
		copy(raw[at:], text)
		return raw
	}
	const first, second = 4096, 4096 + descriptorSize
	for name, test := range map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":                     {nil, image.ErrInvalid},
		"another file":                {bytes.Repeat([]byte("hello "), 1000), image.ErrInvalid},
		"a header, cut short":         {good[:100], image.ErrInvalid},
		"descriptors, cut short":      {good[:5000], image.ErrInvalid},
		"a partition, cut short":      {good[:len(good)-1], image.ErrInvalid},
		"another version":             {changed(42, "02"), image.ErrUnsupported},
		"an impossible time":          {changed(72, "\xff\xff\xff\xff\xff\xff\xff\x7f"), image.ErrInvalid},
		"very many descriptors":       {changed(88, "\xff\xff\xff\xff"), image.ErrInvalid},
		"less than no descriptors":    {changed(88, "\xff\xff\xff\xff\xff\xff\xff\xff"), image.ErrInvalid},
		"descriptors in the header":   {changed(96, "\x00\x00"), image.ErrInvalid},
		"descriptors at a huge place": {changed(96, "\xff\xff\xff\xff\xff\xff\xff\x7f"), image.ErrInvalid},
		"an object before the file":   {changed(first+17, "\xff\xff\xff\xff\xff\xff\xff\xff"), image.ErrInvalid},
		"an object behind the file":   {changed(second+17, "\xff\xff\xff\xff\xff\xff\xff\x7f"), image.ErrInvalid},
		"a huge object":               {changed(second+25, "\xff\xff\xff\xff\xff\xff\xff\x7f"), image.ErrInvalid},
		"an object of less than none": {changed(second+25, "\xff\xff\xff\xff\xff\xff\xff\xff"), image.ErrInvalid},
		"no partition":                {build(definition(recipe)), image.ErrInvalid},
		"another partition":           {build(part{typePartition, squashfs, 3, nil}), image.ErrInvalid},
		"two partitions":              {build(partition(nil), partition(nil)), image.ErrInvalid},
		"an encrypted one":            {build(part{typePartition, encryptedSquashfs, primary, nil}), image.ErrUnsupported},
		"ext3":                        {build(part{typePartition, 2, primary, nil}), image.ErrUnsupported},
		"an OCI-SIF":                  {build(part{kind: typeRootIndex}, part{kind: typeOCIBlob}), image.ErrUnsupported},
	} {
		path := write(t, test.raw)
		_, err := Open(path, Options{})
		wantErr(t, name, err, test.want)
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
	_, err := Open(filepath.Join(t.TempDir(), "missing"), Options{})
	wantErr(t, "a missing file", err, image.ErrNotFound)
	_, err = Open(t.TempDir(), Options{})
	wantErr(t, "a folder", err, image.ErrInvalid)
}

func TestDamaged(t *testing.T) {
	need(t, program)
	good := squash(t, archive("./", "./a"))
	damaged := slices.Clone(good)
	for i := 96; i < len(damaged); i++ {
		damaged[i] ^= 0x55
	}
	for name, content := range map[string][]byte{"no squashfs": []byte("hello"), "cut short": good[:150], "damaged": damaged, "nothing": nil} {
		path := write(t, build(partition(content)))
		_, err := open(t, path, Options{}).Resolve(t.Context(), "")
		wantErr(t, name, err, image.ErrInvalid)
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
	long := "%runscript\n" + strings.Repeat("x", maxDefinition)
	_, err := open(t, write(t, build(definition(long), partition(good))), Options{}).Resolve(t.Context(), "")
	wantErr(t, "a huge definition", err, image.ErrInvalid)
}

// TestBounds: a layer is not larger than it may be, nor made for longer than one waits.
func TestBounds(t *testing.T) {
	path := write(t, build(partition(squash(t, archive("./", "./a")))))
	src := open(t, path, Options{MaxSize: 1000})
	_, err := src.Resolve(t.Context(), "")
	wantErr(t, "too large", err, image.ErrTooLarge)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = open(t, path, Options{}).Resolve(ctx, "")
	wantErr(t, "cancelled", err, context.Canceled)
	t.Setenv("PATH", t.TempDir())
	_, err = open(t, path, Options{}).Resolve(t.Context(), "")
	if wantErr(t, "without the program", err, image.ErrUnsupported); !strings.Contains(err.Error(), "squashfs-tools-ng") {
		t.Errorf("%v does not say what is missing", err)
	}
}

// TestNothingIsLeft in the folder for temporary files, even while the source is open.
func TestNothingIsLeft(t *testing.T) {
	path, folder := write(t, build(partition(squash(t, archive("./", "./a"))))), t.TempDir()
	src, err := Open(path, Options{TempDir: folder})
	must(t, err)
	_, _, layer := all(t, src)
	d, err := src.Resolve(t.Context(), "")
	must(t, err)
	r, err := src.Fetch(t.Context(), d)
	must(t, err)
	defer r.Close()
	entries, err := os.ReadDir(folder)
	must(t, err)
	want(t, "files", len(entries), 0)
	must(t, src.Close())
	if raw, err := io.ReadAll(r); err != nil || len(raw) == 0 || len(layer) == 0 {
		t.Errorf("what was being read ends with %v", err)
	}
	if _, err := src.Resolve(t.Context(), ""); err == nil {
		t.Error("a closed source has an image")
	}
}

// FuzzParse: whatever comes, what is let through lies inside of the file.
func FuzzParse(f *testing.F) {
	f.Add(build(definition(recipe), partition([]byte("hsqs and so on"))))
	f.Add(build(part{kind: typeRootIndex}))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parse(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			if !errors.Is(err, image.ErrInvalid) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, o := range []*object{&c.partition, c.definition} {
			if o != nil && (o.off < 0 || o.size < 0 || o.off+o.size > int64(len(raw))) {
				t.Errorf("let %+v through, in %d bytes", o, len(raw))
			}
		}
		if _, err := json.Marshal(c.modified); err != nil {
			t.Error(err)
		}
	})
}

// FuzzScript: a script has what the definition has, and is one.
func FuzzScript(f *testing.F) {
	f.Add(recipe)
	f.Add("%runscript")
	f.Add("%environment\n%runscript\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		script := scriptOf(text)
		if script != nil && !bytes.HasPrefix(script, []byte("#!/bin/bash\n")) || len(script) > len(text)+20 {
			t.Errorf("%q becomes %q", text, script)
		}
	})
}
