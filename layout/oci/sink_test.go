package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// TestConcurrentTag by several Layouts of one folder, as several processes have, loses none. Who reads meanwhile finds index.json
// whole, and no tag goes once it was there.
func TestConcurrentTag(t *testing.T) {
	const layouts, each = 4, 10
	dir := t.TempDir()
	d, raw := pushImage(t, create(t, dir), "hello")
	var writers, readers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	readers.Go(func() { watch(ctx, t, create(t, dir)) })
	for i := range layouts {
		l := create(t, dir)
		for j := range each {
			writers.Go(func() {
				if err := l.Tag(t.Context(), d, raw, fmt.Sprintf("v%d.%d", i, j)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	writers.Wait()
	stop()
	readers.Wait()
	names, err := tags(t.Context(), create(t, dir))
	if len(names) != layouts*each || err != nil {
		t.Errorf("%d tags are there of %d: %v", len(names), layouts*each, err)
	}
}

// watch reads the tags all the time.
func watch(ctx context.Context, t *testing.T, l *Layout) {
	for most := 0; ctx.Err() == nil; {
		names, err := tags(t.Context(), l)
		if err != nil || len(names) < most {
			t.Errorf("%d tags are there after %d: %v", len(names), most, err)
			return
		}
		most = len(names)
	}
}

// TestTagWaits for who has the lock, and no longer than it is let.
func TestTagWaits(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d, raw := pushImage(t, l, "hello")
	err := create(t, dir).files.(*folder).locked(t.Context(), func() error {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		wantErr(t, "tag while somebody has the lock", l.Tag(ctx, d, raw, "v1"), context.Canceled)
		return nil
	})
	must(t, err)
	must(t, l.Tag(t.Context(), d, raw, "v1"))
}

// TestNothingIsLeft of what failed.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d := describe("application/octet-stream", []byte("content"))
	_, err := l.Push(t.Context(), d, memory([]byte("another"), nil))
	wantErr(t, "push", err, image.ErrDigest)
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	must(t, err)
	want(t, "what is left", left, nil)
	want(t, "blobs", blobNames(t, dir), nil)
}

// blobNames are the names in blobs/sha256.
func blobNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestDamagedManifest is found out and pushed again, though its size is right. A blob is found out when it is read.
func TestDamagedManifest(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d, raw := pushImage(t, l, "hello")
	writeFile(t, strings.Repeat("x", len(raw)), dir, blobPath(d.Digest))
	_, _, err := l.Manifest(t.Context(), d.Digest.String())
	wantErr(t, "read a damaged manifest", err, image.ErrDigest)
	how, err := l.Push(t.Context(), d, memory(raw, nil))
	if how != image.Uploaded || err != nil {
		t.Errorf("push over a damaged manifest: %s, %v", how, err)
	}
	resolve(t, l, d.Digest.String(), d)
}

// TestTornBlob has another size than it should, and is pushed again.
func TestTornBlob(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	d := push(t, l, "application/octet-stream", []byte("content"))
	writeFile(t, "con", dir, blobPath(d.Digest))
	how, err := l.Push(t.Context(), d, memory([]byte("content"), nil))
	if how != image.Uploaded || err != nil {
		t.Errorf("push over a torn blob: %s, %v", how, err)
	}
	want(t, "the blob", readFile(t, dir, blobPath(d.Digest)), "content")
}

// TestNamelessImage is what "" names as long as it is the only one.
func TestNamelessImage(t *testing.T) {
	l := create(t, t.TempDir())
	_, err := l.Resolve(t.Context(), "")
	wantErr(t, "the only image of none", err, image.ErrNotFound)
	d := tagImage(t, l, "hello", "")
	resolve(t, l, "", d)
	tagImage(t, l, "hello", "v1")
	resolve(t, l, "", d)
	wantErr(t, "delete what has no name", l.Delete(t.Context(), ""), image.ErrNotFound)
	tagImage(t, l, "hello again", "v2")
	_, err = l.Resolve(t.Context(), "")
	wantErr(t, "the only image of two", err, image.ErrNotFound)
	if err != nil && !strings.Contains(err.Error(), "v1, v2") {
		t.Errorf("%v does not say which there are", err)
	}
}

// TestFullNames as podman gives them to images in layouts.
func TestFullNames(t *testing.T) {
	l := create(t, t.TempDir())
	const name = "docker.io/library/alpine:3.20"
	d := tagImage(t, l, "hello", name)
	resolve(t, l, name, d)
	for _, part := range []string{"3.20", "alpine:3.20", "docker.io/library/alpine"} {
		_, err := l.Resolve(t.Context(), part)
		wantErr(t, "resolve a part of a name", err, image.ErrNotFound)
	}
	d, raw := pushImage(t, l, "hello")
	wantErr(t, "tag with a digest", l.Tag(t.Context(), d, raw, a.String()), image.ErrInvalid)
}

// TestTypes: what a manifest is when it does not say so itself.
func TestTypes(t *testing.T) {
	dir := t.TempDir()
	l := create(t, dir)
	raw := []byte(`{"schemaVersion":2,"manifests":[]}`)
	d := push(t, l, image.MediaTypeDockerList, raw)
	d.MediaType = v1.MediaTypeImageIndex
	resolve(t, l, d.Digest.String(), d) // by its looks
	d.MediaType = image.MediaTypeDockerList
	must(t, l.Tag(t.Context(), d, raw, "v1"))
	resolve(t, l, d.Digest.String(), d) // by index.json
	resolve(t, l, "v1", d)
	writeFile(t, `{"manifests":[{"digest":"`+d.Digest.String()+`","size":34,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`, dir, "index.json")
	d.MediaType = v1.MediaTypeImageIndex
	resolve(t, l, "v1", d)
	blob := push(t, l, "text/plain", []byte("hello"))
	for _, dgst := range []string{blob.Digest.String(), a.String()} {
		_, err := l.Resolve(t.Context(), dgst)
		wantErr(t, "resolve what is no manifest", err, image.ErrNotFound)
		wantErr(t, "delete what is no manifest", l.Delete(t.Context(), dgst), image.ErrNotFound)
	}
	_, err := l.Push(t.Context(), describe(image.MediaTypeDockerSchema1Signed, []byte("{}")), memory([]byte("{}"), nil))
	wantErr(t, "push schema 1", err, image.ErrUnsupported)
}

// TestReferrersTag: the index of referrers that other clients keep under a name.
func TestReferrersTag(t *testing.T) {
	l := create(t, t.TempDir())
	subject, _ := pushImage(t, l, "hello")
	sbom, _ := pushImage(t, l, "sbom")
	sbom.ArtifactType = "application/vnd.example.sbom"
	raw := marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{sbom},
	})
	must(t, l.Tag(t.Context(), describe(v1.MediaTypeImageIndex, raw), raw, strings.Replace(subject.Digest.String(), ":", "-", 1)))
	var got []image.Descriptor
	for d, err := range l.Referrers(t.Context(), subject, sbom.ArtifactType) {
		must(t, err)
		got = append(got, d)
	}
	want(t, "referrers", got, []image.Descriptor{sbom})
}
