package copy

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/containers/ocicrypt/config"

	"github.com/regfs/regfs/image"
)

// Options say how to copy. The zero value copies an image byte for byte, whole, and converts only what the destination can't hold
// or what the source does not have as its manifest says.
type Options struct {
	// Tags are what the image is put under in the end; with none it is found by its digest only.
	Tags []string
	// Jobs is how many manifests and blobs are moved at once; 0 stands for DefaultJobs.
	Jobs int
	// Events is told how each manifest and blob fares, from several goroutines at once. It may be nil.
	Events func(Event)

	// Parts is how much of a multi-platform image is copied.
	Parts Parts
	// Platforms are those that Parts asks for; none stands for Linux on this machine's architecture.
	Platforms []image.Platform

	// Format is what manifests are converted to.
	Format Format
	// Compression is what layers are compressed with.
	Compression Compression
	// Encrypt, if it is not nil, encrypts layers for the keys it names: those that EncryptLayers counts, from 0 at the base or from
	// -1 at the top, or all if it is empty. What is encrypted stays so, unless Decrypt has a key. Artifacts, and numbers that count no
	// layer, are errors: nothing goes out as it is that was to be encrypted.
	Encrypt       *config.EncryptConfig
	EncryptLayers []int
	// Decrypt, if it is not nil, decrypts the layers that are encrypted.
	Decrypt *config.DecryptConfig

	// PreserveDigests makes whatever would change a digest an error: ErrRefused, or the destination's own.
	PreserveDigests bool
	// TempDir is where layers lie between being converted and being pushed, as files without a name; "" stands for $TMPDIR or
	// /var/tmp, since /tmp may be memory.
	TempDir string
	// Name is the repository's, for schema 1 manifests say it.
	Name string
}

// DefaultJobs is how many manifests and blobs are moved at once unless said otherwise.
const DefaultJobs = 6

// Parts is how much of a multi-platform image is copied. An image for one platform is copied as it is, whatever Parts says.
type Parts string

// The parts there are.
const (
	All       Parts = ""        // the index and all that it names
	System    Parts = "system"  // the image for the one platform, in the place of its index
	Listed    Parts = "listed"  // the platforms, and the index cut to them: of what has no platform, as attestations, nothing stays
	IndexOnly Parts = "index"   // the index, and nothing that it names
	Fitting   Parts = "fitting" // All; where the destination can't hold an index, System
)

// Format is a kind of manifest. An index follows its images: Docker's manifest list goes with Docker's manifests.
type Format string

// The formats there are.
const (
	KeepFormat Format = ""
	OCI        Format = "oci"
	Docker     Format = "v2s2"
	Schema1    Format = "v2s1" // signed with a key made for it, as registries want it
)

// Compression says what layers are compressed with.
type Compression struct {
	To Algorithm
	// Level is as the algorithm counts it: gzip's from 0 to 9, zstd's from 1 to 22. nil stands for the algorithm's own choice. Where
	// To keeps layers as they are, it is for those that have to be compressed with gzip all the same.
	Level *int
	// Force compresses layers anew that are of that form already.
	Force bool
}

// Algorithm is a way to compress.
type Algorithm string

// The algorithms there are. Zstd layers fit in no manifest but an OCI one, which the image is converted to if need be.
const (
	KeepCompression Algorithm = ""
	Gzip            Algorithm = "gzip"
	Zstd            Algorithm = "zstd"
	ZstdChunked     Algorithm = "zstd:chunked" // zstd with a table of contents: single files can be read out of it
	Uncompressed    Algorithm = "none"
)

// result is what a media type calls what an algorithm makes.
func (a Algorithm) result() image.Compression {
	switch a {
	case Gzip:
		return image.Gzip
	case Zstd, ZstdChunked:
		return image.Zstd
	}
	return image.Uncompressed
}

// complete fills in what was left out, and refuses what contradicts itself.
func (o *Options) complete() error {
	if o.Jobs <= 0 {
		o.Jobs = DefaultJobs
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if len(o.Platforms) == 0 {
		o.Platforms = []image.Platform{{OS: "linux", Architecture: runtime.GOARCH}}
	}
	o.TempDir = cmp.Or(o.TempDir, tempDir())
	if (o.Parts == System || o.Parts == Fitting) && len(o.Platforms) > 1 {
		return fmt.Errorf("%d platforms, and one image is asked for: %w", len(o.Platforms), image.ErrInvalid)
	}
	return o.Check()
}

func tempDir() string {
	const lasting = "/var/tmp"
	if info, err := os.Stat(lasting); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		return lasting
	}
	return os.TempDir()
}

// Check tells what contradicts itself or can't be: ErrInvalid, ErrUnsupported.
func (o *Options) Check() error {
	switch {
	case !slices.Contains([]Parts{All, System, Listed, IndexOnly, Fitting}, o.Parts):
		return fmt.Errorf("parts %q: %w", o.Parts, image.ErrInvalid)
	case !slices.Contains([]Format{KeepFormat, OCI, Docker, Schema1}, o.Format):
		return fmt.Errorf("format %q: %w", o.Format, image.ErrInvalid)
	case o.ociOnly() && o.Format != KeepFormat && o.Format != OCI:
		return fmt.Errorf("no %s manifest has layers that are encrypted or compressed with zstd, only an OCI manifest has: %w", o.Format, image.ErrUnsupported)
	}
	return o.Compression.check()
}

// ociOnly tells whether what is asked for fits in OCI manifests only.
func (o *Options) ociOnly() bool {
	return o.Encrypt != nil || o.Compression.To.result() == image.Zstd
}

// levels are the lowest and the highest of each algorithm.
var levels = map[Algorithm][2]int{Gzip: {0, 9}, Zstd: {1, 22}, ZstdChunked: {1, 22}, KeepCompression: {0, 9}, Uncompressed: {0, 22}}

func (c Compression) check() error {
	span, known := levels[c.To]
	if !known {
		return fmt.Errorf("compression %q: %w", c.To, image.ErrInvalid)
	}
	if c.Level != nil && (*c.Level < span[0] || *c.Level > span[1]) {
		return fmt.Errorf("level %d of %s, which has those from %d to %d: %w", *c.Level, c.To, span[0], span[1], image.ErrInvalid)
	}
	return nil
}
