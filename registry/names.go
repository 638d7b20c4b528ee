package registry

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/regfs/regfs/image"
)

// maxName is the most that clients and registries take of a repository's name, host included.
const maxName = 255

// checkRef tells a digest from a tag. What is neither names nothing.
func checkRef(ref string) (digest.Digest, error) {
	if image.ValidTag(ref) {
		return "", nil
	}
	d, err := digest.Parse(ref)
	if err != nil {
		return "", fmt.Errorf("%q is neither a tag nor a digest: %w", ref, image.ErrNotFound)
	}
	return d, nil
}

// checkHost accepts host and host:port, with IPv6 addresses in brackets.
func checkHost(host string) error {
	u, err := url.Parse("//" + host)
	if err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(host, "/@?#%") {
		return fmt.Errorf("%q is no registry's name: %w", host, image.ErrNotFound)
	}
	return nil
}

// onLoopback tells whether a host is this machine, by name or address.
func onLoopback(host string) bool {
	name := hostname(host)
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// hostname is a host without its port and brackets.
func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }
