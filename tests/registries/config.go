package registries

import (
	"path/filepath"

	"go.yaml.in/yaml/v2"
	"golang.org/x/crypto/bcrypt"
)

// object is a mapping of a registry's YAML configuration.
type object map[string]any

// settings are the file that docker-registry 2.8 and distribution 3 both read, but for how they listen.
func settings(t TB, c Config, ca *CA) object {
	t.Helper()
	conf := object{
		"version": "0.1",
		"log":     object{"level": "error", "accesslog": object{"disabled": true}},
		"storage": object{
			"filesystem":  object{"rootdirectory": c.Storage},
			"delete":      object{"enabled": c.Delete},
			"maintenance": object{"uploadpurging": object{"enabled": false}},
			"cache":       object{"blobdescriptor": "inmemory"},
		},
	}
	switch c.Auth {
	case Htpasswd:
		conf["auth"] = object{"htpasswd": object{"realm": "regfs tests", "path": htpasswd(t)}}
	case Token:
		server := newTokenServer(t, ca)
		conf["auth"] = object{"token": object{
			"realm": server.realm, "service": tokenService, "issuer": tokenIssuer, "rootcertbundle": server.bundle,
		}}
	}
	return conf
}

// htpasswd writes a password file with the one account.
func htpasswd(t TB) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(Password), bcrypt.MinCost)
	if err != nil {
		t.Fatalf("htpasswd: %v", err)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, path, []byte(User+":"+string(hash)+"\n"))
	return path
}

func marshal(t TB, conf object) []byte {
	t.Helper()
	raw, err := yaml.Marshal(conf)
	if err != nil {
		t.Fatalf("configuration: %v", err)
	}
	return raw
}

// prepare fills in what the zero Config leaves to us.
func prepare(t TB, c Config) (Config, *CA) {
	t.Helper()
	if c.Storage == "" {
		c.Storage = t.TempDir()
	}
	if c.TLS {
		return c, newCA(t)
	}
	return c, nil
}
