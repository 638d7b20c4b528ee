package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
)

// defaultHost is where an engine listens that was told nothing else.
const defaultHost = "unix:///var/run/docker.sock"

// defaultTimeout is how long an engine may be silent unless said otherwise.
const defaultTimeout = time.Minute

// client speaks to one engine.
type client struct {
	at      string // as users name it
	base    string // what URLs begin with
	http    *http.Client
	timeout time.Duration

	mu      sync.Mutex
	version string // of the API, "" while it is not known
}

func newClient(o Options) (*client, error) {
	at := cmp.Or(o.Host, os.Getenv("DOCKER_HOST"), defaultHost)
	c := &client{at: clean(withoutUser(at)), timeout: cmp.Or(max(o.Timeout, 0), defaultTimeout)}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true, MaxIdleConns: 6, IdleConnTimeout: 30 * time.Second,
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // an engine has nowhere to send anybody
	}}
	if err := c.connect(transport, at, o); err != nil {
		return nil, fmt.Errorf("open the Docker engine at %s: %w", c.at, err)
	}
	return c, nil
}

// withoutUser is a host without the user and the password that somebody took it to have.
func withoutUser(at string) string {
	scheme, address, _ := strings.Cut(at, "://")
	if i := strings.LastIndex(address, "@"); i >= 0 && scheme != "unix" {
		return scheme + "://" + address[i+1:]
	}
	return at
}

// connect tells the transport where the engine is, and how it is spoken to.
func (c *client) connect(transport *http.Transport, at string, o Options) error {
	scheme, address, _ := strings.Cut(at, "://")
	switch scheme {
	case "unix":
		return c.socket(transport, address)
	case "tcp", "http", "https":
		return c.network(transport, scheme, address, o)
	case "ssh":
		return fmt.Errorf("no engine is reached by SSH from here: forward its socket (ssh -L /tmp/docker.sock:/var/run/docker.sock …), "+
			"and write unix:///tmp/docker.sock: %w", image.ErrUnsupported)
	}
	return fmt.Errorf("write unix:///path/of/docker.sock, or tcp://host:port: %w", image.ErrInvalid)
}

func (c *client) socket(transport *http.Transport, path string) error {
	if path == "" {
		return fmt.Errorf("the path of the socket is empty: %w", image.ErrInvalid)
	}
	c.base = "http://docker" // some name there must be
	transport.Proxy = nil
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return nil
}

func (c *client) network(transport *http.Transport, scheme, address string, o Options) error {
	u, err := url.Parse("tcp://" + strings.TrimSuffix(address, "/"))
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return fmt.Errorf("write %s://host:port: %w", scheme, image.ErrInvalid)
	}
	certificates, verify := cmp.Or(o.Certificates, os.Getenv("DOCKER_CERT_PATH")), os.Getenv("DOCKER_TLS_VERIFY") != ""
	port := "2375"
	c.base = "http://"
	if scheme == "https" || scheme == "tcp" && (certificates != "" || verify) {
		port, c.base = "2376", "https://"
		if transport.TLSClientConfig, err = certified(certificates, verify); err != nil {
			return err
		}
	}
	c.base += net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return nil
}

// certified is how the engine is known, and this client to it, by the certificates in a folder. Without a folder it is the one that
// docker looks into, if docker would verify the engine at all, and the system's authorities where it would not.
func certified(dir string, verify bool) (*tls.Config, error) {
	home, err := os.UserHomeDir()
	if dir == "" && verify && err == nil {
		dir = filepath.Join(home, ".docker")
	}
	if dir == "" {
		return &tls.Config{}, nil
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fileError(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate: %w", filepath.Join(dir, "ca.pem"), image.ErrInvalid)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fileError(err)
	}
	config.Certificates = []tls.Certificate{cert}
	return config, nil
}

// fileError adds what an error of a file with certificates means to it.
func fileError(err error) error {
	switch {
	case os.IsNotExist(err):
		return &failure{err.Error(), []error{err, image.ErrNotFound}}
	case os.IsPermission(err):
		return &failure{err.Error(), []error{err, image.ErrDenied}}
	}
	return &failure{err.Error(), []error{err, image.ErrInvalid}}
}

// close gives up idle connections.
func (c *client) close() { c.http.CloseIdleConnections() }
