package registry

import (
	"crypto/tls"
	"os"
	"path/filepath"

	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/unshare"
)

// tlsConfig trusts what the system trusts, and what certs.d says of this endpoint.
func (e *endpoint) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.insecure}
	dir, err := certDir(e.client.options.System, e.host)
	if err != nil || dir == "" {
		return config, err
	}
	return config, tlsclientconfig.SetupCertificates(dir, config)
}

// certDir is the first certs.d directory of a host, in the order of containers-certs.d(5); "" when there is none.
func certDir(sys *types.SystemContext, host string) (string, error) {
	root := ""
	if sys != nil {
		if sys.DockerCertPath != "" {
			return sys.DockerCertPath, nil
		}
		if sys.DockerPerHostCertDirPath != "" {
			return filepath.Join(sys.DockerPerHostCertDirPath, host), nil
		}
		root = sys.RootForImplicitAbsolutePaths
	}
	paths, err := configfile.GetSearchPaths(&configfile.File{
		Name: "certs", Extension: "d", DoNotUseExtensionForConfigName: true,
		UserId: unshare.GetRootlessUID(), RootForImplicitAbsolutePaths: root,
	})
	if err != nil {
		return "", err
	}
	for _, base := range append(paths.DropInDirectories, filepath.Join(root, "/etc/docker/certs.d")) {
		dir := filepath.Join(base, host)
		if _, err := os.Stat(dir); err == nil {
			return dir, nil
		}
	}
	return "", nil
}
