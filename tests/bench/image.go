package main

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/regfs/regfs/tests/registries"
)

// layers are the Debian packages that the image's layers are made of.
var layers = [][]string{
	{"libc6", "coreutils", "bash", "perl-base", "libpython3.11-stdlib", "git"},
	{"golang-1.19-go", "golang-1.19-src"},
	{"libllvm14", "llvm-14-dev", "libclang-14-dev"},
	{"openjdk-17-jre-headless"},
	{"gcc-12", "g++-12", "cpp-12", "libicu-dev"},
	{"libreoffice-core", "libwebkit2gtk-4.0-37", "libstd-rust-dev"},
}

// imageFolder is the image's in the folder for data.
const imageFolder = "image"

// openImage opens the image in the OCI layout at path, which is made if it is not there.
func openImage(t registries.TB, path string) v1.Image {
	if _, err := os.Stat(path); err != nil {
		build(t, path)
	}
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%s is not the benchmarks' image: %v", path, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return img
}

// build makes the layout of the benchmarks' image.
func build(t registries.TB, path string) {
	work := t.TempDir()
	var built []v1.Layer
	for i, packages := range layers {
		t.Logf("making layer %d of %d: %v", i+1, len(layers), packages)
		built = append(built, debLayer(t, filepath.Join(work, fmt.Sprint(i)), packages))
	}
	writeLayout(t, path, registries.BuildImage(t, registries.Platforms[0], "bench", built...))
}

// writeLayout makes the layout of an image in a temporary folder first, so that what is at path is whole.
func writeLayout(t registries.TB, path string, img v1.Image) {
	to := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(to, empty.Index)
	if err == nil {
		err = l.AppendImage(img)
	}
	if err == nil {
		err = os.Rename(to, path)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// debLayer unpacks packages into one folder and makes a gzipped tar of that.
func debLayer(t registries.TB, work string, packages []string) v1.Layer {
	root, debs := filepath.Join(work, "root"), filepath.Join(work, "debs")
	if err := os.MkdirAll(debs, 0o777); err != nil {
		t.Fatalf("%v", err)
	}
	download := exec.CommandContext(t.Context(), "apt-get", append([]string{"download", "-q"}, packages...)...)
	download.Dir = debs
	if out, err := download.CombinedOutput(); err != nil {
		t.Fatalf("%v (apt-get update may help)\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != len(packages) {
		t.Fatalf("%d files for the packages %v: %v", len(files), packages, err)
	}
	for _, deb := range files {
		if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", deb, err, out)
		}
	}
	path := filepath.Join(work, "layer.tar.gz")
	if err := archive(path, root); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return layer
}

// archive writes root as a gzipped tar, the files in the order of their names.
func archive(path, root string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	zip := gzip.NewWriter(f)
	w := tar.NewWriter(zip)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		return add(w, root, path, entry)
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = zip.Close()
	}
	return err
}

func add(w *tar.Writer, root, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(root, path); err != nil {
		return err
	}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
