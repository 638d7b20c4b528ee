package registries

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
)

// AuthFile writes an auth.json with the account of the registries given, and returns its path. With a repository after a
// host (host:port/team/app), the credentials are for that part of the registry only.
func AuthFile(t TB, hosts ...string) string {
	t.Helper()
	return AuthFileOf(t, User, Password, hosts...)
}

// AuthFileOf is AuthFile with other credentials, such as wrong ones.
func AuthFileOf(t TB, user, password string, hosts ...string) string {
	t.Helper()
	type entry struct {
		Auth string `json:"auth"`
	}
	auths := map[string]entry{}
	for _, host := range hosts {
		auths[host] = entry{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	}
	raw, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatalf("auth.json: %v", err)
	}
	path := filepath.Join(t.TempDir(), "auth.json")
	writeFile(t, path, raw)
	return path
}

// CertsDir writes a certs.d folder in which the authorities of the registries given are trusted, and returns its path.
func CertsDir(t TB, registries ...*Registry) string {
	t.Helper()
	dir := t.TempDir()
	for _, r := range registries {
		if r.CA == nil {
			t.Fatalf("%s speaks plain HTTP and has no authority", r.Host)
		}
		pem, err := os.ReadFile(r.CA.Path)
		if err != nil {
			t.Fatalf("%v", err)
		}
		writeFile(t, filepath.Join(dir, r.Host, "ca.crt"), pem)
	}
	return dir
}
