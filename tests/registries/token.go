package registries

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"
)

// Names that the token server and the registry have agreed on.
const (
	tokenService = "regfs-tests"
	tokenIssuer  = "regfs-tests-issuer"
)

// tokenServer answers as https://distribution.github.io/distribution/spec/auth/token/ says, GET only.
type tokenServer struct {
	realm string
	// bundle is the file of the certificates that the registry is to trust tokens of.
	bundle string
	key    *ecdsa.PrivateKey
	x5c    []string
}

// newTokenServer starts a token server, over TLS if serverCA is given.
func newTokenServer(t TB, serverCA *CA) *tokenServer {
	t.Helper()
	ca := newCA(t)
	signer := ca.certificate(t)
	s := &tokenServer{
		bundle: ca.Path,
		key:    signer.PrivateKey.(*ecdsa.PrivateKey),
		x5c:    []string{base64.StdEncoding.EncodeToString(signer.Certificate[0])},
	}
	// go-containerregistry refuses realms at loopback addresses, but not the name of one.
	_, port, err := net.SplitHostPort(serve(t, s, serverCA))
	if err != nil {
		t.Fatalf("token server: %v", err)
	}
	s.realm = (&Registry{CA: serverCA}).Scheme() + "://localhost:" + port + "/token"
	return s
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, given := r.BasicAuth()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/token":
		http.NotFound(w, r)
		return
	case r.FormValue("service") != tokenService || given && (user != User || password != Password):
		http.Error(w, "access denied", http.StatusUnauthorized)
		return
	}
	access := []access{}
	if given {
		access = grant(r.Form["scope"])
	}
	token, err := s.sign(user, access)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": int(tokenLife / time.Second)})
}

const tokenLife = 5 * time.Minute

// access is one entry of a token's claim of the same name.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// grant turns scopes, "type:name:action,action" each and several in one parameter too, into access. The name may hold a colon.
func grant(scopes []string) []access {
	granted := []access{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		kind, rest, ok := strings.Cut(scope, ":")
		colon := strings.LastIndexByte(rest, ':')
		if ok && colon >= 0 {
			granted = append(granted, access{kind, rest[:colon], strings.Split(rest[colon+1:], ",")})
		}
	}
	return granted
}

// claims are what a token says.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	ID       string   `json:"jti"`
	Issued   int64    `json:"iat"`
	From     int64    `json:"nbf"`
	Until    int64    `json:"exp"`
	Access   []access `json:"access"`
}

// sign makes a JSON Web Token whose x5c header carries the signer's certificate, the form that both docker-registry 2.8 and
// distribution 3 check against rootcertbundle.
func (s *tokenServer) sign(subject string, granted []access) (string, error) {
	now := time.Now()
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": s.x5c})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims{
		Issuer: tokenIssuer, Subject: subject, Audience: tokenService, ID: rand.Text(),
		Issued: now.Unix(), From: now.Add(-time.Minute).Unix(), Until: now.Add(tokenLife).Unix(), Access: granted,
	})
	if err != nil {
		return "", err
	}
	base64URL := base64.RawURLEncoding.EncodeToString
	signed := base64URL(header) + "." + base64URL(body)
	hash := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, s.key, hash[:])
	if err != nil {
		return "", err
	}
	signature := append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
	return signed + "." + base64URL(signature), nil
}
