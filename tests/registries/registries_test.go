package registries_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/regfs/regfs/tests/registries"
	"github.com/regfs/regfs/tests/registries/distribution"
)

var kinds = map[string]func(registries.TB, registries.Config) *registries.Registry{"docker": registries.Docker, "distribution": distribution.Start}

var configs = map[string]registries.Config{
	"anonymous": {}, "htpasswd": {Auth: registries.Htpasswd}, "token": {Auth: registries.Token},
	"tls": {TLS: true}, "htpasswd, tls": {Auth: registries.Htpasswd, TLS: true}, "token, tls": {Auth: registries.Token, TLS: true},
}

func each(t *testing.T, test func(t *testing.T, r *registries.Registry)) {
	for kind, start := range kinds {
		for what, config := range configs {
			t.Run(kind+"/"+what, func(t *testing.T) { test(t, start(t, config)) })
		}
	}
	t.Run("memory", func(t *testing.T) { test(t, registries.Memory(t)) })
}

func TestRegistriesKeepWhatIsPushed(t *testing.T) {
	each(t, func(t *testing.T, r *registries.Registry) {
		pushed := r.PushIndex(t, "team/hello:v1", "1")
		got, err := remote.Get(r.Ref(t, "team/hello:v1"), r.Options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		want, err := pushed.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got.Manifest)); diff != "" {
			t.Errorf("index (-pushed +read):\n%s", diff)
		}
	})
}

func TestRegistriesRefuseStrangers(t *testing.T) {
	strangers := map[string]authn.Authenticator{
		"anonymous":      authn.Anonymous,
		"wrong password": authn.FromConfig(authn.AuthConfig{Username: registries.User, Password: "guess"}),
	}
	each(t, func(t *testing.T, r *registries.Registry) {
		if r.Auth == registries.Anonymous {
			return
		}
		r.PushIndex(t, "team/hello:v1", "1")
		for who, auth := range strangers {
			_, err := remote.Get(r.Ref(t, "team/hello:v1"), append(r.Options(t), remote.WithAuth(auth))...)
			if err == nil {
				t.Errorf("%s may read", who)
			}
		}
	})
}

func TestTLSIsTrustedThroughItsAuthorityOnly(t *testing.T) {
	r := distribution.Start(t, registries.Config{TLS: true})
	resp, err := http.Get("https://" + r.Host + "/v2/")
	if err == nil {
		resp.Body.Close()
		t.Error("the system trusts a certificate made for this test")
	}
	written, err := os.ReadFile(filepath.Join(registries.CertsDir(t, r), r.Host, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(r.CA.Path); err != nil || string(written) != string(want) {
		t.Errorf("certs.d has %q, want %q (%v)", written, want, err)
	}
}

func TestDeleteIsAsConfigured(t *testing.T) {
	for kind, start := range kinds {
		for _, allowed := range []bool{true, false} {
			r := start(t, registries.Config{Delete: allowed})
			img := registries.Image(t, registries.Platforms[0], "1")
			r.PushImage(t, "hello:v1", img)
			digest, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			err = remote.Delete(r.Ref(t, "hello@"+digest.String()), r.Options(t)...)
			if (err == nil) != allowed {
				t.Errorf("%s with Delete %v: %v", kind, allowed, err)
			}
		}
	}
}

func TestDockerKeepsSchema1(t *testing.T) {
	for _, auth := range []registries.Auth{registries.Anonymous, registries.Htpasswd} {
		r := registries.Docker(t, registries.Config{Schema1: true, Auth: auth})
		r.PushImage(t, "old/hello:v1", registries.DockerImage(t, "1"))
		pushed := r.PushSchema1(t, "old/hello:v1")
		got, err := remote.Get(r.Ref(t, "old/hello:v1"), r.Options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		if got.MediaType != types.DockerManifestSchema1Signed || got.Digest != pushed {
			t.Errorf("got %s, %s; want %s", got.MediaType, got.Digest, pushed)
		}
	}
}

func TestReferrersAreFound(t *testing.T) {
	each(t, func(t *testing.T, r *registries.Registry) {
		subject := r.PushArtifact(t, "team/files:v1")
		sbom := r.PushSBOM(t, "team/files", subject)
		index, err := remote.Referrers(r.Ref(t, "team/files@"+subject.Digest.String()).(name.Digest), r.Options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		found, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Manifests) != 1 || found.Manifests[0].Digest != sbom.Digest {
			t.Errorf("found %v, want %s alone", found.Manifests, sbom.Digest)
		}
	})
}

func TestArtifactsNameTheirFiles(t *testing.T) {
	r := registries.Memory(t)
	r.PushArtifact(t, "files:v1")
	r.PushChart(t, "chart:1.2.3")
	want := map[string][]string{"files:v1": {"hello.txt", "docs/guide.md"}, "chart:1.2.3": {"hello-1.2.3.tgz"}}
	for ref, names := range want {
		desc, err := remote.Get(r.Ref(t, ref), r.Options(t)...)
		if err != nil {
			t.Fatal(err)
		}
		var m v1.Manifest
		if err := json.Unmarshal(desc.Manifest, &m); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, layer := range m.Layers {
			got = append(got, layer.Annotations["org.opencontainers.image.title"])
		}
		if diff := cmp.Diff(names, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", ref, diff)
		}
	}
}

func TestManyTags(t *testing.T) {
	const n = 1000
	storage := registries.ManyTags(t, "many/tags", n)
	for kind, start := range kinds {
		r := start(t, registries.Config{Storage: storage})
		tags, err := remote.List(r.Ref(t, "many/tags:any").Context(), r.Options(t)...)
		if err != nil || len(tags) != n {
			t.Fatalf("%s: %d tags, %v", kind, len(tags), err)
		}
		img, err := remote.Image(r.Ref(t, "many/tags:"+tags[n-1]), r.Options(t)...)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, layer := range layers {
			if err := validate.Layer(layer); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

func TestAuthFile(t *testing.T) {
	raw, err := os.ReadFile(registries.AuthFile(t, "127.0.0.1:5000", "127.0.0.1:5001/team"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]map[string]string
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	auth := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(registries.User + ":" + registries.Password))}
	want := map[string]map[string]map[string]string{"auths": {"127.0.0.1:5000": auth, "127.0.0.1:5001/team": auth}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("auth.json (-want +got):\n%s", diff)
	}
}

func TestImagesAreTheSameEachTime(t *testing.T) {
	first, err := registries.Index(t, "1").Digest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := registries.Index(t, "1").Digest()
	if err != nil {
		t.Fatal(err)
	}
	other, err := registries.Index(t, "2").Digest()
	if err != nil {
		t.Fatal(err)
	}
	if first != second || first == other {
		t.Errorf("digests of version 1 twice and of 2: %s, %s, %s", first, second, other)
	}
}
