package copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regfs/regfs/image"
)

// plan is how an image for one platform is to be.
type plan struct {
	source
	form
	layers []layer
	// config is the config as the source has it, where it had to be read.
	config []byte
	// old is what a schema 1 manifest says.
	old *schema1
}

// layer is one of a plan's, or anything else that a manifest names, and what becomes of it.
type layer struct {
	image.Descriptor
	work
	// mediaType is what it gets.
	mediaType string
}

// manifest copies what a manifest names, and returns the manifest as it is to be: in the first of the forms that the destination
// takes.
func (r *run) manifest(ctx context.Context, s source, depth int, forms []form) (made, error) {
	p, told, err := r.settle(ctx, s, forms)
	if err != nil {
		return made{}, err
	}
	layers, err := r.parts(ctx, p, depth)
	if err != nil {
		return made{}, err
	}
	m, config, err := r.finished(p, layers)
	if err == nil && m.Digest != told.Digest {
		err = r.expect(ctx, s, m)
	}
	if err == nil && config != nil {
		d := newMade("", config).Descriptor
		d.MediaType = configTypes[p.format]
		err = r.push(ctx, d, d, memory(config))
	}
	if others := p.others(forms); len(others) > 0 && r.Format == KeepFormat {
		m.next = func(ctx context.Context) (made, error) { return r.manifest(ctx, s, depth, others) }
	}
	return m, err
}

// others are the forms that differ from the plan's by the kind of manifest, and stood behind it.
func (p *plan) others(forms []form) []form {
	i := slices.IndexFunc(forms, func(f form) bool { return f == p.form })
	return slices.DeleteFunc(slices.Clone(forms[i+1:]), func(f form) bool { return f.format == p.format || f.to != p.to })
}

// settle tells the destination of the image, with the layers as the source has them, and finds a form that it takes.
func (r *run) settle(ctx context.Context, s source, forms []form) (*plan, made, error) {
	var first error
	for _, f := range forms {
		p, err := r.plan(ctx, s, f)
		var m made
		if err == nil && r.PreserveDigests && p.works() {
			err = refused(s)
		}
		if err == nil {
			m, _, err = r.finished(p, p.unchanged())
		}
		if err == nil {
			err = r.expect(ctx, s, m)
		}
		if err == nil || !errors.Is(err, image.ErrUnsupported) {
			return p, m, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, made{}, first
}

// expect tells the destination what is coming in the place of s.
func (r *run) expect(ctx context.Context, s source, m made) error {
	if r.PreserveDigests && m.Digest != s.Digest {
		return refused(s)
	}
	return r.to.Expect(ctx, m.Descriptor, m.raw)
}

func refused(s source) error {
	return fmt.Errorf("%s would have to be changed, and digests are to be preserved: %w", s.Digest, image.ErrRefused)
}

// works tells whether the bytes of any layer change.
func (p *plan) works() bool {
	return slices.ContainsFunc(p.layers, func(l layer) bool { return l.work != (work{}) })
}

// form is what an image is made into.
type form struct {
	format Format
	to     Algorithm
}

// forms are those to try, the best first: what was asked for, then other formats, then layers that are not compressed.
func (r *run) forms(s source) []form {
	if !s.isImage() {
		return []form{{s.own(), KeepCompression}}
	}
	formats := r.formats(s)
	if r.PreserveDigests {
		return []form{{formats[0], r.Compression.To}}
	}
	var forms, plain []form
	for _, f := range formats {
		forms = append(forms, form{f, r.Compression.To})
		plain = append(plain, form{f, Uncompressed})
	}
	if r.Compression.To != KeepCompression {
		return forms
	}
	return append(forms, plain...)
}

// formats are those that an image may get: one if the caller chose it, or what was asked for needs it.
func (r *run) formats(s source) []Format {
	switch {
	case r.Format != KeepFormat:
		return []Format{r.Format}
	case r.ociOnly():
		return []Format{OCI}
	case s.own() == OCI:
		return []Format{OCI, Docker}
	case s.own() == Docker:
		return []Format{Docker, OCI}
	}
	return []Format{Schema1, Docker, OCI}
}

// own is the format that a manifest has.
func (s source) own() Format {
	switch {
	case image.IsSchema1(s.Manifest.MediaType):
		return Schema1
	case s.Manifest.MediaType == image.MediaTypeDockerManifest:
		return Docker
	}
	return OCI
}

// configTypes are the media types of configs of images. What has another one is an artifact, and not converted.
var configTypes = map[Format]string{OCI: v1.MediaTypeImageConfig, Docker: image.MediaTypeDockerConfig}

func (s source) isImage() bool {
	return s.Config == nil || s.Config.MediaType == configTypes[OCI] || s.Config.MediaType == configTypes[Docker]
}

// plan works out what is to be done for an image of the form f.
func (r *run) plan(ctx context.Context, s source, f form) (*plan, error) {
	p := &plan{source: s, form: f, layers: layersOf(s.Layers)}
	if !s.isImage() {
		return p, r.checkArtifact(s)
	}
	err := r.planLayers(p)
	if err == nil && p.needsConfig() {
		err = r.readConfig(ctx, p)
	}
	if err != nil {
		return p, fmt.Errorf("convert %s to %s: %w", s.Digest, f.format, err)
	}
	return p, nil
}

// checkArtifact refuses what nobody can convert.
func (r *run) checkArtifact(s source) error {
	if r.Encrypt != nil {
		return fmt.Errorf("%s is an artifact, which is not encrypted: %w", s.Digest, image.ErrUnsupported)
	}
	if r.Format != KeepFormat && r.Format != s.own() {
		return fmt.Errorf("%s is an artifact, which is not converted to %s: %w", s.Digest, r.Format, image.ErrUnsupported)
	}
	return nil
}

// planLayers says what becomes of the layers. Those of a schema 1 image that is converted are only those with something in them.
func (r *run) planLayers(p *plan) (err error) {
	if p.own() == Schema1 && p.format != Schema1 {
		if p.old, err = parseSchema1(p.raw); err != nil {
			return err
		}
		p.layers = layersOf(p.old.layers())
	}
	n := len(p.layers)
	for _, i := range r.EncryptLayers {
		if i < -n || i >= n {
			return fmt.Errorf("there is no layer %d to encrypt among %d: %w", i, n, image.ErrInvalid)
		}
	}
	for i := range p.layers {
		if err := r.planLayer(p, i, p.form); err != nil {
			return err
		}
	}
	return nil
}

// needsConfig tells whether the config has to be read: another one is made of it, or tars come to light that can be verified by it.
func (p *plan) needsConfig() bool {
	return p.Config != nil && (p.newConfig() || slices.ContainsFunc(p.layers, func(l layer) bool { return l.work.to != KeepCompression }))
}

func layersOf(ds []image.Descriptor) []layer {
	layers := make([]layer, len(ds))
	for i, d := range ds {
		layers[i] = unworked(d)
	}
	return layers
}

func unworked(d image.Descriptor) layer { return layer{Descriptor: d, mediaType: d.MediaType} }

// planLayer says what becomes of one layer. One with URLs keeps its bytes: they lead to those.
func (r *run) planLayer(p *plan, i int, f form) error {
	l, own := &p.layers[i], p.own()
	t, ok := image.ParseLayerType(l.MediaType)
	if !ok && (f.format != own || r.encrypts(i, len(p.layers))) {
		return fmt.Errorf("layer %s has the media type %q, which is none of an image: %w", l.Digest, l.MediaType, image.ErrUnsupported)
	}
	if !ok {
		return nil
	}
	if len(l.URLs) > 0 && r.encrypts(i, len(p.layers)) {
		return fmt.Errorf("layer %s says where it lies unencrypted, by URLs: %w", l.Digest, image.ErrUnsupported)
	}
	if f.to == KeepCompression && f.format != own && f.format != OCI && t.Compression == image.Zstd {
		f.to = Gzip
	}
	if len(l.URLs) == 0 {
		t = r.planWork(&l.work, t, f.to, l.Annotations, r.encrypts(i, len(p.layers)))
	}
	l.measure = p.old != nil
	t.Docker = f.format != OCI
	if f.format != own && t.Docker && (t.Encrypted || t.Compression == image.Zstd) {
		return fmt.Errorf("layer %s is encrypted or compressed with zstd, which %s manifests are not for: %w", l.Digest, f.format, image.ErrUnsupported)
	}
	if f.format != own || l.work != (work{}) {
		l.mediaType = t.String()
	}
	return nil
}

// planWork says what is to be done with the bytes of a layer of the type t, and what type it gets by that.
func (r *run) planWork(w *work, t image.LayerType, to Algorithm, annotations map[string]string, encrypt bool) image.LayerType {
	if t.Encrypted && r.Decrypt == nil {
		return t
	}
	w.decrypt, t.Encrypted = t.Encrypted, encrypt
	if to != KeepCompression && (r.Compression.Force || !isOf(to, t, annotations)) {
		w.to, t.Compression = to, to.result()
	}
	w.encrypt = encrypt
	return t
}

// isOf tells whether a layer is of a form already.
func isOf(to Algorithm, t image.LayerType, annotations map[string]string) bool {
	return t.Compression == to.result() && (to != ZstdChunked || annotations[annotationChunked] != "")
}

// encrypts tells whether the layer i of n is to be encrypted.
func (r *run) encrypts(i, n int) bool {
	return r.Encrypt != nil && (len(r.EncryptLayers) == 0 || slices.Contains(r.EncryptLayers, i) || slices.Contains(r.EncryptLayers, i-n))
}

// maxConfig is the longest config that is read, in bytes: what other clients read, too.
const maxConfig = image.MaxManifest

// readConfig reads the config, and has the tars of layers verified by it.
func (r *run) readConfig(ctx context.Context, p *plan) error {
	if err := r.room.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.room.Release(1)
	content, err := r.from.Content(ctx, *p.Config)
	if err != nil {
		return err
	}
	if p.config, err = readAll(ctx, content, *p.Config); err != nil {
		return fmt.Errorf("config %s: %w", p.Config.Digest, err)
	}
	var config struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(p.config, &config); err != nil {
		return fmt.Errorf("config %s: %v: %w", p.Config.Digest, err, image.ErrInvalid)
	}
	for i, diffID := range config.RootFS.DiffIDs {
		if len(config.RootFS.DiffIDs) == len(p.layers) && p.layers[i].to != KeepCompression {
			p.layers[i].diffID = diffID
		}
	}
	return nil
}

func readAll(ctx context.Context, content image.Content, d image.Descriptor) ([]byte, error) {
	if d.Size > maxConfig {
		return nil, fmt.Errorf("%d bytes, more than %d: %w", d.Size, maxConfig, image.ErrTooLarge)
	}
	r, err := content.Open(ctx, 0)
	if err != nil {
		return nil, err
	}
	if r, err = image.Verify(r, d); err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err == nil && len(raw) > maxConfig {
		err = fmt.Errorf("more than %d bytes: %w", maxConfig, image.ErrTooLarge)
	}
	return raw, err
}

// parts copies the layers of an image, and its config if that stays as it is.
func (r *run) parts(ctx context.Context, p *plan, depth int) ([]result, error) {
	results := make([]result, len(p.layers))
	tasks := len(p.layers)
	if p.Config != nil && !p.newConfig() {
		tasks++
	}
	err := r.each(ctx, tasks, func(ctx context.Context, i int) (err error) {
		if i == len(p.layers) {
			_, err = r.copyOnce(ctx, unworked(*p.Config), depth+1)
			return err
		}
		results[i], err = r.copyOnce(ctx, p.layers[i], depth+1)
		return err
	})
	if err == nil && p.format == Schema1 && p.Manifest.Config != nil {
		err = r.pushEmpty(ctx, p)
	}
	return results, err
}
