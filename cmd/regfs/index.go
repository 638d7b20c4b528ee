package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
)

// maxIndexing is how many layers are indexed at once.
const maxIndexing = 2

func indexCommand() *cobra.Command {
	c, all, quiet := &config{}, false, false
	cmd := &cobra.Command{
		Use:   "index [flags] IMAGE...",
		Short: "Index the layers of images ahead of time",
		Long: `Index the layers of images ahead of time, so that a mount shows what is in them, rootfs/ and
layers/NN/tree/, without waiting. The mount must have the same cache folder. An IMAGE is
named as podman and skopeo do:

  docker://HOST/REPOSITORY[:TAG|@DIGEST]   a registry's; without a tag, latest
  oci:PATH[:TAG][@DIGEST]                  an OCI image layout's, a folder

Each layer is fetched once and verified, and stays in the cache as long as there is room;
its index stays longer. What is indexed already is not fetched. When a layer can't be
indexed, the others are all the same, and the exit code is 1.

Credentials are those of podman, skopeo and docker ('podman login'); so are registries.conf
and certs.d. Progress and errors go to stderr.`,
		Example: `  regfs index docker://quay.io/podman/stable
  regfs index --platform linux/arm64 docker://alpine:3.20 docker://debian:12
  regfs index --all-platforms --cache-dir /srv/regfs docker://registry.example.com/team/app:v1`,
		Args: someImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return indexNamed(cmd.Context(), c, args, all, cmd.ErrOrStderr(), quiet)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing unless it fails")
	c.addPlatformFlag(cmd.Flags(), "index multi-platform images for this")
	cmd.Flags().BoolVar(&all, "all-platforms", false, "index multi-platform images for all their platforms")
	c.addCacheFlags(cmd.Flags())
	c.addRegistryFlags(cmd.Flags())
	return cmd
}

func someImages(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("what? An IMAGE such as docker://HOST/REPOSITORY:TAG is missing")}
	}
	return nil
}

// indexNamed indexes the layers of all that is named, until it is interrupted.
func indexNamed(ctx context.Context, c *config, images []string, all bool, stderr io.Writer, quiet bool) error {
	var refs []image.Ref
	for _, text := range images {
		n, err := parseRef(text)
		if err != nil {
			return err
		}
		refs = append(refs, n)
	}
	if err := c.checkTimeout(); err != nil {
		return err
	}
	if err := c.place(&c.cacheDir, "--cache-dir", cachePlace); err != nil {
		return err
	}
	p := newProgress(stderr, quiet)
	x := &indexing{c: c, all: all, p: p, seen: map[digest.Digest]bool{}}
	err := interruptible(ctx, func(ctx context.Context) error { return x.run(ctx, refs) })
	p.close()
	if err == nil && !quiet {
		fmt.Fprintf(stderr, "layers indexed now: %d, before: %d\n", len(x.layers)-x.before, x.before)
	}
	return err
}

// indexing is the indexing of layers under way.
type indexing struct {
	c   *config
	all bool // platforms
	p   *progress

	seen   map[digest.Digest]bool
	layers []todo

	mu     sync.Mutex
	before int // how many layers were indexed before
	failed int
}

// todo is a layer to be indexed, and a place that has it.
type todo struct {
	src image.Source
	d   image.Descriptor
}

// run fails when something failed, which it has told by then.
func (x *indexing) run(ctx context.Context, refs []image.Ref) error {
	log := slog.New(slog.NewTextHandler(x.p, nil))
	store, err := cache.New(cache.Options{Dir: x.c.cacheDir, Size: x.c.cacheSize, Timeout: x.c.timeout, Log: log})
	if err != nil {
		return err
	}
	defer store.Close()
	client := x.c.newClient(nil)
	defer client.Close()
	layers := layer.New(layer.Options{Store: store, Blobs: store, Report: func(d image.Descriptor, problem string) {
		fmt.Fprintf(x.p, "%s: %s\n", short(d.Digest), problem)
	}})
	defer layers.Close()
	open := &places{registry: store.Through(client.Host), timeout: x.c.timeout}
	for _, n := range refs {
		src, err := open.source(ctx, n)
		if err == nil {
			defer src.Close()
			err = x.find(ctx, src, n)
		}
		x.tell(ctx, err)
	}
	x.indexAll(ctx, layers)
	if ctx.Err() == nil && x.failed > 0 {
		return errors.New("not all layers are indexed")
	}
	return ctx.Err()
}

func (x *indexing) indexAll(ctx context.Context, layers *layer.Layers) {
	var group errgroup.Group
	group.SetLimit(maxIndexing)
	for _, t := range x.layers {
		group.Go(func() error {
			x.tell(ctx, x.index(ctx, layers, t))
			return nil
		})
	}
	_ = group.Wait() // nobody fails but by telling
}

// tell says what failed. After an interrupt everything does.
func (x *indexing) tell(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	x.mu.Lock()
	x.failed++
	x.mu.Unlock()
	fmt.Fprintf(x.p, "regfs: %v\n", err)
}

// find finds the layers of an image: of the platform, or of all.
func (x *indexing) find(ctx context.Context, src image.Source, n image.Ref) error {
	root, err := find(ctx, n, src)
	if err != nil {
		return err
	}
	if !x.all {
		return x.findOne(ctx, src, n, root)
	}
	return image.Walk(ctx, src, root, func(d image.Descriptor, m *image.Manifest, err error) error {
		switch {
		case errors.Is(err, image.ErrNotFound) && d.Digest != root.Digest:
			return nil // a sparse mirror has not all that its index names
		case err == nil && m != nil:
			x.add(src, m)
		}
		return err
	})
}

func (x *indexing) findOne(ctx context.Context, src image.Source, n image.Ref, root image.Descriptor) error {
	m, err := manifest(ctx, src, root)
	if err == nil && m.IsIndex() {
		d, ok := image.Select(m.Manifests, x.c.platform)
		if !ok {
			return fmt.Errorf("%s has no image for %s", n, platformName(x.c.platform))
		}
		m, err = manifest(ctx, src, d)
	}
	if err != nil {
		return err
	}
	x.add(src, m)
	return nil
}

func manifest(ctx context.Context, src image.Source, d image.Descriptor) (*image.Manifest, error) {
	_, raw, err := src.Manifest(ctx, d.Digest.String())
	if err != nil {
		return nil, err
	}
	return image.ParseManifest(d.MediaType, raw)
}

func (x *indexing) add(src image.Source, m *image.Manifest) {
	for _, d := range m.Layers {
		if layer.IsLayer(d.MediaType) && !x.seen[d.Digest] {
			x.seen[d.Digest] = true
			x.layers = append(x.layers, todo{src, d})
		}
	}
}

// What is told of layers that have an index.
const (
	indexed       image.How = "indexed"
	indexedBefore image.How = "was indexed before"
)

// index indexes one layer, and shows how that fares.
func (x *indexing) index(ctx context.Context, layers *layer.Layers, t todo) error {
	moved := func(done int64) { x.p.tell(copy.Event{Descriptor: t.d, State: copy.Moving, Sent: done}) }
	moved(0) // so that it is seen what is waited for
	made, err := layers.Index(ctx, t.src, t.d, moved)
	if err != nil {
		x.p.tell(copy.Event{Descriptor: t.d, State: copy.Failed, Err: err})
		return fmt.Errorf("index layer %s: %w", t.d.Digest, err)
	}
	how := indexed
	if !made {
		how = indexedBefore
		x.mu.Lock()
		defer x.mu.Unlock()
		x.before++
	}
	x.p.tell(copy.Event{Descriptor: t.d, State: copy.Done, How: how})
	return nil
}
