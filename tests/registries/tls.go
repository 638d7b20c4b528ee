package registries

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a private certificate authority.
type CA struct {
	// Path is the authority's certificate, in PEM.
	Path string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t TB) *CA {
	t.Helper()
	template := certificate("regfs test authority")
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	ca := &CA{key: newKey(t), cert: template, Path: filepath.Join(t.TempDir(), "ca.crt")}
	ca.cert = ca.sign(t, template, ca.key)
	writeFile(t, ca.Path, encodePEM("CERTIFICATE", ca.cert.Raw))
	return ca
}

// Client trusts this authority and no other.
func (ca *CA) Client() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &tls.Config{RootCAs: roots}
}

// certificates makes a certificate for servers on loopback, and its key.
func (ca *CA) certificate(t TB) tls.Certificate {
	t.Helper()
	template := certificate("regfs test server")
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	template.DNSNames = []string{"localhost"}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	key := newKey(t)
	return tls.Certificate{Certificate: [][]byte{ca.sign(t, template, key).Raw}, PrivateKey: key}
}

// files writes a certificate and its key for a server that is another process.
func (ca *CA) files(t TB) (certPath, keyPath string) {
	t.Helper()
	cert, dir := ca.certificate(t), t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatalf("server key: %v", err)
	}
	certPath, keyPath = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	writeFile(t, certPath, encodePEM("CERTIFICATE", cert.Certificate[0]))
	writeFile(t, keyPath, encodePEM("PRIVATE KEY", key))
	return certPath, keyPath
}

func (ca *CA) sign(t TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	return cert
}

// certificate is valid around now: its times leave room for clocks that are set while a test runs.
func certificate(commonName string) *x509.Certificate {
	serial, now := new(big.Int).SetBytes([]byte(rand.Text()[:16])), time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName}, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

func newKey(t TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("key: %v", err)
	}
	return key
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeFile(t TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("%v", err)
	}
}
