package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/regfs/regfs/image"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"
)

// minTokenLife is how long a token lasts that does not say (distribution, "Token Authentication Specification").
const minTokenLife = time.Minute

// maxSessions is how many repositories of one endpoint are remembered with their tokens.
const maxSessions = 4096

type sessionKey struct {
	account string // what credentials are looked up by: host/repository, or host
	scope   string
}

// session is how one scope of one endpoint is entered: a repository, or the catalog.
type session struct {
	sessionKey
	endpoint *endpoint

	entering lock // held while looking for credentials and asking for a token

	mu    sync.Mutex
	entry *entry // nil until the endpoint asked for one
	asks  *transport.Challenge
}

// entry is what opens a session: the header, and for how long.
type entry struct {
	header  string // "" where there are no credentials
	made    time.Time
	expires time.Time // zero where it lasts
}

// session is the one for that account and scope, always the same.
func (e *endpoint) session(key sessionKey) *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sessions[key]
	if s == nil {
		if len(e.sessions) >= maxSessions {
			clear(e.sessions) // who looks at that many repositories can ask for a token again
		}
		s = &session{sessionKey: key, endpoint: e, entering: make(lock, 1)}
		e.sessions[key] = s
	}
	return s
}

// enter gives what to show the endpoint: what is known, or what its challenge takes.
func (s *session) enter(ctx context.Context, conn *connection) (*entry, error) {
	if err := s.entering.acquire(ctx); err != nil {
		return nil, err
	}
	defer s.entering.release()
	asks, known := s.known(conn)
	if known != nil {
		return known, nil
	}
	entry, err := s.ask(ctx, conn, asks)
	if err != nil {
		return nil, err
	}
	entry.made = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entry = entry
	return entry, nil
}

// known is the challenge to meet, and the entry that does for now, if any.
func (s *session) known(conn *connection) (*transport.Challenge, *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := s.asks
	if asks == nil {
		asks = conn.challenge
	}
	if s.entry != nil && (s.entry.expires.IsZero() || time.Now().Before(s.entry.expires)) {
		return asks, s.entry
	}
	if asks == nil {
		return nil, &entry{}
	}
	return asks, nil
}

// refused forgets an entry that did not open, and takes what the answer asks for instead. It tells whether that is worth a try:
// not when the entry was made since start to meet the same challenge.
func (s *session) refused(conn *connection, used *entry, asks *transport.Challenge, start time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entry == used {
		s.entry = nil
	}
	if asks == nil {
		return false
	}
	met := s.asks
	if met == nil {
		met = conn.challenge
	}
	s.asks = asks
	return used.made.Before(start) || !s.covers(met, asks)
}

// covers tells whether what met one challenge meets another one.
func (s *session) covers(met, asks *transport.Challenge) bool {
	scope := asks.Parameters["scope"]
	return met != nil && met.Scheme == asks.Scheme && met.Parameters["realm"] == asks.Parameters["realm"] &&
		met.Parameters["service"] == asks.Parameters["service"] &&
		(scope == "" || scope == s.scope || scope == met.Parameters["scope"])
}

// challengeOf reads what a 401 asks for, as the library reads it; nil where it asks for nothing.
func challengeOf(ctx context.Context, conn *connection, resp *http.Response) *transport.Challenge {
	registry, err := name.NewRegistry("registry.invalid") // the answer is here already
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	asks, err := transport.Ping(ctx, registry, replay{resp.Header})
	if err != nil || asks.Scheme == "" {
		return nil
	}
	asks.Insecure = conn.scheme == "http"
	return asks
}

// replay answers any request with the challenge that another one got.
type replay struct{ header http.Header }

func (r replay) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusUnauthorized, Header: r.header, Body: http.NoBody, Request: req, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// ask meets a challenge with the credentials as they are configured now.
func (s *session) ask(ctx context.Context, conn *connection, asks *transport.Challenge) (*entry, error) {
	login, err := s.credentials(ctx)
	if err != nil {
		return nil, err
	}
	switch strings.ToLower(asks.Scheme) {
	case "basic":
		if login.Username == "" {
			return &entry{}, nil
		}
		pair := base64.StdEncoding.EncodeToString([]byte(login.Username + ":" + login.Password))
		return &entry{header: "Basic " + pair}, nil
	case "bearer":
		return s.token(ctx, conn, asks, login)
	}
	return nil, fmt.Errorf("the registry asks for %q, which is neither Basic nor Bearer: %w", asks.Scheme, image.ErrDenied)
}

// token exchanges credentials, or none, for a token.
func (s *session) token(ctx context.Context, conn *connection, asks *transport.Challenge, login types.DockerAuthConfig) (*entry, error) {
	scopes := strings.Fields(s.scope)
	if more := asks.Parameters["scope"]; more != "" && more != s.scope {
		scopes = append([]string{more}, scopes...) // some token servers read the first one only
	}
	who := authn.Anonymous
	if login != (types.DockerAuthConfig{}) {
		who = authn.FromConfig(authn.AuthConfig{
			Username: login.Username, Password: login.Password, IdentityToken: login.IdentityToken,
		})
	}
	registry, err := s.endpoint.realmGuard(asks)
	if err != nil {
		return nil, err
	}
	token, err := transport.Exchange(ctx, registry, who, conn.transport, scopes, asks)
	if err != nil {
		return nil, tokenError(ctx, err)
	}
	life := max(time.Duration(token.ExpiresIn)*time.Second, minTokenLife)
	return &entry{header: "Bearer " + cmp.Or(token.AccessToken, token.Token), expires: time.Now().Add(life - life/10)}, nil
}

// tokenError keeps what a token server says, and never a token. Whatever its answer is, none of it is about an image.
func tokenError(ctx context.Context, err error) error {
	var said *transport.Error
	var lost *url.Error
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &said) && temporary(said.StatusCode):
		return &statusError{status: said.StatusCode, words: "token server: " + statusWords(said)}
	case errors.As(err, &said):
		return fmt.Errorf("token server: %s (%d): %w", statusWords(said), said.StatusCode, image.ErrDenied)
	case errors.As(err, &lost):
		return fmt.Errorf("token server: %w", lost.Err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("token server: %w", err)
	}
	words, _, _ := strings.Cut(err.Error(), "\n") // what follows is the answer, as it came
	return fmt.Errorf("token server: %s: %w", clean(words), image.ErrDenied)
}

// statusWords is what an answer says, without the request that the library puts before it.
func statusWords(said *transport.Error) string {
	said.Request = nil
	return clean(said.Error())
}

// realmGuard is the registry by which the library judges a realm. It lets no registry send for tokens to a private address but
// its own; one that lives on private addresses itself may name others there, as a GitLab and its registry do.
func (e *endpoint) realmGuard(asks *transport.Challenge) (name.Registry, error) {
	realm, err := http.NewRequest(http.MethodGet, asks.Parameters["realm"], nil)
	if err == nil && (hostname(realm.URL.Host) == hostname(e.address()) || private(e.address())) {
		return name.NewRegistry(realm.URL.Host)
	}
	return name.NewRegistry(e.address())
}

func private(host string) bool {
	ip := net.ParseIP(hostname(host))
	return onLoopback(host) || ip != nil && ip.IsPrivate()
}

// credentials are those configured for the account now. A helper may hang; the caller does not hang with it.
func (s *session) credentials(ctx context.Context) (types.DockerAuthConfig, error) {
	type answer struct {
		login types.DockerAuthConfig
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		login, err := config.GetCredentials(s.endpoint.client.options.System, s.account)
		answers <- answer{login, err}
	}()
	select {
	case <-ctx.Done():
		return types.DockerAuthConfig{}, context.Cause(ctx)
	case a := <-answers:
		if a.err != nil {
			return a.login, fmt.Errorf("looking for credentials: %v: %w", a.err, image.ErrDenied)
		}
		return a.login, nil
	}
}
