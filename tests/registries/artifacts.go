package registries

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// manifest is raw bytes to be put as they are.
type manifest struct {
	mediaType types.MediaType
	raw       []byte
}

func (m manifest) RawManifest() ([]byte, error)        { return m.raw, nil }
func (m manifest) MediaType() (types.MediaType, error) { return m.mediaType, nil }

// title is the annotation that names a blob's file.
const title = "org.opencontainers.image.title"

// emptyConfig is what an artifact without a config has in its place (image-spec, "Guidance for an Empty Descriptor").
const emptyConfig = types.MediaType("application/vnd.oci.empty.v1+json")

// artifact is the manifest of an artifact, in the order the image-spec gives the fields.
type artifact struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        v1.Descriptor     `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Subject       *v1.Descriptor    `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// PushArtifact pushes an OCI artifact of two titled files, hello.txt and docs/guide.md, to ref, and returns what it is.
func (r *Registry) PushArtifact(t TB, ref string) v1.Descriptor {
	t.Helper()
	repository := repositoryOf(ref)
	return r.pushArtifact(t, ref, artifact{
		ArtifactType: "application/vnd.regfs.example",
		Config:       r.pushBlob(t, repository, []byte("{}"), emptyConfig),
		Layers: []v1.Descriptor{
			r.pushFile(t, repository, "hello.txt", "text/plain", "hello, artifact\n"),
			r.pushFile(t, repository, "docs/guide.md", "text/markdown", "# A guide\n\nTo nothing much.\n"),
		},
	})
}

// PushChart pushes an artifact of the form that Helm gives to charts to ref, and returns what it is.
func (r *Registry) PushChart(t TB, ref string) v1.Descriptor {
	t.Helper()
	repository := repositoryOf(ref)
	chart := Layer(t, Files{"hello/Chart.yaml": "apiVersion: v2\nname: hello\nversion: 1.2.3\n", "hello/values.yaml": "replicas: 1\n"})
	content := r.pushBlob(t, repository, compressed(t, chart), "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
	content.Annotations = map[string]string{title: "hello-1.2.3.tgz"}
	return r.pushArtifact(t, ref, artifact{
		Config: r.pushBlob(t, repository, []byte(`{"name":"hello","version":"1.2.3","apiVersion":"v2"}`),
			"application/vnd.cncf.helm.config.v1+json"),
		Layers:      []v1.Descriptor{content},
		Annotations: map[string]string{title: "hello", "org.opencontainers.image.version": "1.2.3"},
	})
}

// PushSBOM attaches a bill of materials to subject, which is in the same repository, and returns what it is.
func (r *Registry) PushSBOM(t TB, repository string, subject v1.Descriptor) v1.Descriptor {
	t.Helper()
	subject = v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	return r.pushArtifact(t, repository, artifact{
		ArtifactType: "application/spdx+json",
		Config:       r.pushBlob(t, repository, []byte("{}"), emptyConfig),
		Layers: []v1.Descriptor{r.pushFile(t, repository, "sbom.spdx.json", "application/spdx+json",
			`{"spdxVersion":"SPDX-2.3","name":"hello","packages":[]}`+"\n")},
		Subject:     &subject,
		Annotations: map[string]string{"org.opencontainers.image.created": Created.Format("2006-01-02T15:04:05Z07:00")},
	})
}

// PushSchema1 replaces the image in Docker's format that is at ref, repository:tag, by the signed schema 1 manifest that the
// registry makes of it, and returns what the registry names that by: the digest of its payload. The registry signs the
// payload anew for each answer, so its bytes differ each time. It has to have been started with Config.Schema1.
func (r *Registry) PushSchema1(t TB, ref string) v1.Hash {
	t.Helper()
	const signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	parsed := r.Ref(t, ref)
	url := r.Scheme() + "://" + r.Host + "/v2/" + parsed.Context().RepositoryStr() + "/manifests/" + parsed.Identifier()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	req.Header.Set("Accept", signed)
	req.SetBasicAuth(User, Password)
	resp, err := r.Transport(t).RoundTrip(req)
	if err != nil {
		t.Fatalf("schema 1 of %s: %v", ref, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if got := resp.Header.Get("Content-Type"); err != nil || got != signed {
		t.Fatalf("schema 1 of %s: %s, %q, %v", ref, resp.Status, got, err)
	}
	digest, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		t.Fatalf("schema 1 of %s: %v", ref, err)
	}
	r.PushManifest(t, ref, signed, raw)
	return digest
}

// pushArtifact puts an artifact's manifest under ref, a repository:tag, or by its digest under ref, a repository.
func (r *Registry) pushArtifact(t TB, ref string, a artifact) v1.Descriptor {
	t.Helper()
	a.SchemaVersion, a.MediaType = 2, types.OCIManifestSchema1
	raw, err := json.Marshal(a)
	if err != nil {
		t.Fatalf("artifact: %v", err)
	}
	if ref == repositoryOf(ref) {
		ref += "@" + describe(t, a.MediaType, raw).Digest.String()
	}
	return r.PushManifest(t, ref, string(a.MediaType), raw)
}

func (r *Registry) pushFile(t TB, repository, name, mediaType, content string) v1.Descriptor {
	t.Helper()
	d := r.pushBlob(t, repository, []byte(content), types.MediaType(mediaType))
	d.Annotations = map[string]string{title: name}
	return d
}

func (r *Registry) pushBlob(t TB, repository string, content []byte, mediaType types.MediaType) v1.Descriptor {
	t.Helper()
	repo := r.Ref(t, repository+":latest").Context()
	if err := remote.WriteLayer(repo, static.NewLayer(content, mediaType), r.Options(t)...); err != nil {
		t.Fatalf("push of a blob to %s: %v", repository, err)
	}
	return describe(t, mediaType, content)
}

func describe(t TB, mediaType types.MediaType, content []byte) v1.Descriptor {
	t.Helper()
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}
}

func compressed(t TB, layer v1.Layer) []byte {
	t.Helper()
	stream, err := layer.Compressed()
	if err != nil {
		t.Fatalf("layer: %v", err)
	}
	defer stream.Close()
	raw, err := io.ReadAll(stream)
	if err != nil {
		t.Fatalf("layer: %v", err)
	}
	return raw
}

// repositoryOf cuts the tag off repository:tag.
func repositoryOf(ref string) string {
	repository, _, _ := strings.Cut(ref, ":")
	return repository
}
