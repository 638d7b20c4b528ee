package registries

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Platforms are those of the images that Index makes, in its order.
var Platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64"},
	{OS: "linux", Architecture: "arm", Variant: "v7"},
}

// Image is an OCI image of a platform: two layers of real files, of which the second differs between platforms and versions,
// and a config with history (an empty layer too), environment and labels.
func Image(t TB, platform v1.Platform, version string) v1.Image {
	t.Helper()
	return BuildImage(t, platform, version,
		Layer(t, Files{"etc/": "", "etc/os-release": "ID=regfs\nVERSION_ID=1\n", "etc/hello.conf": "greeting=hello\n"}),
		Layer(t, Files{
			"bin/": "", "bin/hello": "#!/bin/sh\necho hello from " + platform.String() + ", " + version + "\n",
			"usr/share/doc/hello/README": "hello " + version + " for " + platform.String() + "\n",
		}))
}

// BuildImage is an OCI image of the layers given.
func BuildImage(t TB, platform v1.Platform, version string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	config := config(platform, version)
	img, err := mutate.ConfigFile(img, config)
	for i, layer := range layers {
		if err != nil {
			break
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: history(i)})
	}
	if err == nil {
		img, err = mutate.Append(img, mutate.Addendum{History: v1.History{
			Created: v1.Time{Time: Created}, CreatedBy: `CMD ["/bin/hello"]`, EmptyLayer: true,
		}})
	}
	if err != nil {
		t.Fatalf("image: %v", err)
	}
	return img
}

func config(platform v1.Platform, version string) *v1.ConfigFile {
	return &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: Created}, Author: "regfs tests", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Env: []string{"PATH=/bin", "GREETING=hello"}, Cmd: []string{"/bin/hello"}, WorkingDir: "/", User: "1000",
			Labels: map[string]string{
				"org.opencontainers.image.version": version, "org.opencontainers.image.title": "hello",
			},
		},
	}
}

// history tells of layer i. The wording is that of a Dockerfile's instructions.
func history(i int) v1.History {
	by := []string{"COPY etc /etc # buildkit", "RUN make install # buildkit"}
	return v1.History{Created: v1.Time{Time: Created}, CreatedBy: by[i%len(by)], Comment: "buildkit.dockerfile.v0"}
}

// Index is a multi-platform OCI image for Platforms.
func Index(t TB, version string) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range Platforms {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: Image(t, platform, version), Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index
}

// DockerImage is a single-platform image in Docker's format, schema 2.
func DockerImage(t TB, version string) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, config(Platforms[0], version))
	if err == nil {
		layer := Layer(t, Files{"bin/hello": "#!/bin/sh\necho hello from docker, " + version + "\n"})
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.DockerLayer, History: history(0)})
	}
	if err != nil {
		t.Fatalf("image: %v", err)
	}
	return img
}

// PushIndex pushes Index(t, version) to ref, repository:tag, and returns it.
func (r *Registry) PushIndex(t TB, ref, version string) v1.ImageIndex {
	t.Helper()
	index := Index(t, version)
	if err := remote.WriteIndex(r.Ref(t, ref), index, r.Options(t)...); err != nil {
		t.Fatalf("push of %s: %v", ref, err)
	}
	return index
}

// PushImage pushes an image to ref, repository:tag.
func (r *Registry) PushImage(t TB, ref string, img v1.Image) {
	t.Helper()
	if err := remote.Write(r.Ref(t, ref), img, r.Options(t)...); err != nil {
		t.Fatalf("push of %s: %v", ref, err)
	}
}

// PushBlob pushes content to a repository as a blob that nothing refers to.
func (r *Registry) PushBlob(t TB, repository string, content []byte) v1.Descriptor {
	t.Helper()
	return r.pushBlob(t, repository, content, types.MediaType("application/octet-stream"))
}

// PushManifest puts raw under ref, repository:tag or repository@digest, exactly as it is. Where raw has a subject and the
// registry no referrers API, the referrers tag is updated.
func (r *Registry) PushManifest(t TB, ref, mediaType string, raw []byte) v1.Descriptor {
	t.Helper()
	m := manifest{types.MediaType(mediaType), raw}
	if err := remote.Put(r.Ref(t, ref), m, r.Options(t)...); err != nil {
		t.Fatalf("push of %s: %v", ref, err)
	}
	return describe(t, m.mediaType, raw)
}

// Head is what the registry has at ref, repository:tag.
func (r *Registry) Head(t TB, ref string) v1.Descriptor {
	t.Helper()
	d, err := remote.Head(r.Ref(t, ref), r.Options(t)...)
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	return *d
}
