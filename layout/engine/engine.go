// Package engine is a Docker engine as a place to read images from and to write them to, by its API
// (https://docs.docker.com/reference/api/engine/) and over its socket.
//
// Most engines keep images in a form of their own, layers unpacked and no manifests, and give and take them whole, as docker save
// writes them. So an image that is read is fetched into a file first, once, and where the engine has no manifest one is made of what
// came: always the same for the same image, and the one that skopeo makes. The file is locked while it is of use, and what a killed
// process left goes with the next image. What is pushed is kept in files without names until there is a manifest for it, and goes to
// the engine with it. An engine that keeps images in containerd (Docker 25 and later can) gets them as they are, and gives them back so.
package engine

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"go.podman.io/image/v5/docker/reference"

	"github.com/regfs/regfs/image"
)

// Options say which engine it is, and how it is spoken to. The zero value is the engine that docker would use.
type Options struct {
	// Host is unix:///path/of/docker.sock, tcp://host:port, http://… or https://…; "" stands for DOCKER_HOST, and where that is not
	// set for unix:///var/run/docker.sock. tcp:// is with TLS where docker would use it: with DOCKER_TLS_VERIFY, or with certificates.
	Host string
	// Certificates is the folder with ca.pem, cert.pem and key.pem; "" stands for DOCKER_CERT_PATH.
	Certificates string
	// Timeout is how long the engine may be silent, 0 for a minute, and ten times as long while it packs or unpacks an image.
	Timeout time.Duration
	// TempDir is the folder for what is on its way; "" stands for TMPDIR, and where that is not set for /var/tmp.
	TempDir string
}

// Engine is a Docker engine. It is safe for concurrent use.
type Engine struct {
	client *client
	images *images
	pushed *store
}

var _ image.Place = (*Engine)(nil)

// Open says which engine is meant. It sends nothing: an engine that is not there is found out by use. ErrInvalid for a host that can't
// be one; ErrNotFound, ErrDenied or ErrInvalid for certificates that can't be read.
func Open(o Options) (*Engine, error) {
	o.TempDir = cmp.Or(o.TempDir, os.Getenv("TMPDIR"), "/var/tmp")
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	e := &Engine{client: c, pushed: newStore(o.TempDir)}
	e.images = newImages(c, o.TempDir)
	return e, nil
}

// Close ends what is being fetched, and gives up what was. What is being read stays readable.
func (e *Engine) Close() error {
	e.images.close()
	e.pushed.close()
	e.client.close()
	return nil
}

// Hosts implements image.Place: the hosts of all names in the engine, sorted.
func (e *Engine) Hosts(ctx context.Context) iter.Seq2[string, error] {
	return e.list(ctx, "list the hosts", "", func(n name) string { return n.Host })
}

// list yields what of each name sorts after "after", in order and each once.
func (e *Engine) list(ctx context.Context, op, after string, of func(name) string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		names, err := e.client.names(ctx)
		if err != nil {
			yield("", e.failed(op, "", err))
			return
		}
		for _, s := range sorted(names, after, of) {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// sorted is what of each name sorts after "after", in order and each once.
func sorted(names []name, after string, of func(name) string) []string {
	var all []string
	for _, n := range names {
		if s := of(n); s > after {
			all = append(all, s)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Host implements image.Place. The host "" has the repository "", whose images are known by their IDs.
func (e *Engine) Host(name string) (image.Host, error) {
	if name != "" && !image.ValidHost(name) {
		return nil, e.failed("open", clean(name), fmt.Errorf("no image can have that host: %w", image.ErrNotFound))
	}
	return &host{e, name}, nil
}

// host is all that the engine has under a host's name.
type host struct {
	engine *Engine
	name   string
}

func (h *host) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return h.engine.list(ctx, "list the repositories of "+h.name, after, func(n name) string {
		if n.Host != h.name {
			return ""
		}
		return n.Name
	})
}

func (h *host) Source(_ context.Context, repository string) (image.Source, error) {
	at, err := h.repository(repository)
	if err != nil {
		return nil, err
	}
	return &source{h.engine, at}, nil
}

func (h *host) Sink(_ context.Context, repository string) (image.Sink, error) {
	at, err := h.repository(repository)
	if err != nil {
		return nil, err
	}
	return newSink(h.engine, at), nil
}

// repository is the name as the engine understands it: docker.io/alpine is docker.io/library/alpine.
func (h *host) repository(name string) (image.Repository, error) {
	if h.name == "" && name == "" {
		return image.Repository{}, nil
	}
	at := image.Repository{Host: h.name, Name: name}
	named, err := reference.ParseNormalizedNamed(at.String())
	if err != nil || h.name == "" || !image.ValidRepository(name) || !reference.IsNameOnly(named) {
		return at, h.engine.failed("open", clean(at.String()), fmt.Errorf("no image can have that name: %w", image.ErrNotFound))
	}
	return image.Repository{Host: reference.Domain(named), Name: reference.Path(named)}, nil
}

// Close does nothing: all that is open is the Engine's.
func (h *host) Close() error { return nil }

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// temp makes a file without a name.
func temp(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "regfs-engine-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
