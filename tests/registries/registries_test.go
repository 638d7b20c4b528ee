package registries

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
)

var kinds = map[string]func(TB, Config) *Registry{"docker": Docker, "distribution": Distribution}

var configs = map[string]Config{
	"anonymous": {}, "htpasswd": {Auth: Htpasswd}, "token": {Auth: Token},
	"tls": {TLS: true}, "htpasswd, tls": {Auth: Htpasswd, TLS: true}, "token, tls": {Auth: Token, TLS: true},
}

func each(t *testing.T, test func(t *testing.T, r *Registry)) {
	for kind, start := range kinds {
		for what, config := range configs {
			t.Run(kind+"/"+what, func(t *testing.T) { test(t, start(t, config)) })
		}
	}
	t.Run("memory", func(t *testing.T) { test(t, Memory(t)) })
}

func TestRegistriesKeepWhatIsPushed(t *testing.T) {
	each(t, func(t *testing.T, r *Registry) {
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
		"wrong password": authn.FromConfig(authn.AuthConfig{Username: User, Password: "guess"}),
	}
	each(t, func(t *testing.T, r *Registry) {
		if r.Auth == Anonymous {
			t.Skip("lets everybody in")
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
	r := Distribution(t, Config{TLS: true})
	resp, err := http.Get("https://" + r.Host + "/v2/")
	if err == nil {
		resp.Body.Close()
		t.Error("the system trusts a certificate made for this test")
	}
	written, err := os.ReadFile(filepath.Join(CertsDir(t, r), r.Host, "ca.crt"))
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
			r := start(t, Config{Delete: allowed})
			img := Image(t, Platforms[0], "1")
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
	for _, auth := range []Auth{Anonymous, Htpasswd} {
		r := Docker(t, Config{Schema1: true, Auth: auth})
		r.PushImage(t, "old/hello:v1", DockerImage(t, "1"))
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
	each(t, func(t *testing.T, r *Registry) {
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
	r := Memory(t)
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
			got = append(got, layer.Annotations[title])
		}
		if diff := cmp.Diff(names, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", ref, diff)
		}
	}
}

func TestManyTags(t *testing.T) {
	const n = 1000
	storage := ManyTags(t, "many/tags", n)
	for kind, start := range kinds {
		r := start(t, Config{Storage: storage})
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
			compressed(t, layer)
		}
	}
}

func TestAuthFile(t *testing.T) {
	raw, err := os.ReadFile(AuthFile(t, "127.0.0.1:5000", "127.0.0.1:5001/team"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]map[string]string
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	auth := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(User + ":" + Password))}
	want := map[string]map[string]map[string]string{"auths": {"127.0.0.1:5000": auth, "127.0.0.1:5001/team": auth}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("auth.json (-want +got):\n%s", diff)
	}
}

func TestImagesAreTheSameEachTime(t *testing.T) {
	first, err := Index(t, "1").Digest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := Index(t, "1").Digest()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Index(t, "2").Digest()
	if err != nil {
		t.Fatal(err)
	}
	if first != second || first == other {
		t.Errorf("digests of version 1 twice and of 2: %s, %s, %s", first, second, other)
	}
}
