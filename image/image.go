// Package image is the contract of regfs: what an image is made of, the places one can live in, and what those places
// promise. It does no I/O of its own.
//
// The words are those of the OCI specifications: https://github.com/opencontainers/image-spec and
// https://github.com/opencontainers/distribution-spec.
package image

import (
	"context"
	"io"
	"iter"
	"os"

	// Digests may be of either.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor names content by media type, digest and size (image-spec, descriptor.md). A Size of -1 means that whoever
// named the content did not say how large it is, as Docker's schema 1 manifests do for layers.
type Descriptor = v1.Descriptor

// Platform is what an entry of an index is for: operating system, architecture and variant.
type Platform = v1.Platform

// Host is a place with repositories: a registry, a containers-storage, an archive with several names.
// It is safe for concurrent use.
type Host interface {
	// Repositories lists the names that sort after "after", in order. Where the place can't list them, the
	// sequence is one ErrUnsupported.
	Repositories(ctx context.Context, after string) iter.Seq2[string, error]
	// Source opens one repository for reading. It sends nothing: a repository that does not exist is found out by use.
	Source(ctx context.Context, repository string) (Source, error)
	// Sink opens one repository for writing. It sends nothing, and makes nothing: a repository comes to be by what is pushed.
	// ErrUnsupported where nothing can be written.
	Sink(ctx context.Context, repository string) (Sink, error)
	io.Closer
}

// Place is where images have full names, their host's first: all registries, a containers-storage, a Docker engine, a docker
// archive. It is safe for concurrent use.
type Place interface {
	// Hosts lists the hosts of the names that images have, in order. Where the place can't know them all, as the world's
	// registries, the sequence is one ErrUnsupported.
	Hosts(ctx context.Context) iter.Seq2[string, error]
	// Host opens one of them. It asks for nothing: a host of no image is found out by use.
	Host(name string) (Host, error)
	io.Closer
}

// Source reads one repository, whatever carries it. It is safe for concurrent use.
//
// Every method ends: with the context, or when the place did not move a byte for as long as it was told to wait.
type Source interface {
	// Resolve says what a tag, a digest, or "" (the only image) names now, without reading it: a registry is sent a HEAD. Where images
	// are counted or have IDs, "@" and a position from 0 on or an ID names one, too (Ref.Name).
	// ErrNotFound when there is no such image.
	Resolve(ctx context.Context, ref string) (Descriptor, error)
	// Manifest reads the manifest or index that a tag, a digest or "" names, whole, in one request. The bytes match
	// the descriptor and are at most MaxManifest long.
	Manifest(ctx context.Context, ref string) (Descriptor, []byte, error)
	// Stat tells size and media type of a digest of the repository, blob or manifest.
	Stat(ctx context.Context, dgst digest.Digest) (Descriptor, error)
	// Fetch opens d, blob or manifest, at its start. The reader ends in io.EOF only if the content matched d's digest and size;
	// otherwise in ErrDigest.
	Fetch(ctx context.Context, d Descriptor) (io.ReadCloser, error)
	// FetchRange opens n bytes of the blob d from off on, unverified. The reader ends in io.EOF after n bytes, never before.
	// ErrUnsupported where the place can't start at off.
	FetchRange(ctx context.Context, d Descriptor, off, n int64) (io.ReadCloser, error)
	// Tags lists the tags that sort after "after", as the place pages them. A repository that does not exist is one ErrNotFound.
	Tags(ctx context.Context, after string) iter.Seq2[string, error]
	// Referrers lists what names d as its subject (distribution-spec, "Listing Referrers"), of one artifactType or, with "", all.
	Referrers(ctx context.Context, d Descriptor, artifactType string) iter.Seq2[Descriptor, error]
	io.Closer
}

// Blob is content open for reading at any offset, by many readers at once.
type Blob interface {
	// ReadAt fills p from off on, as io.ReaderAt does, and waits for bytes that are still on their way. The content's last
	// byte, and io.EOF, come only after the whole was verified; content that did not match ends in ErrDigest. The context
	// ends the waiting, not the transfer that others may share.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// Ready waits as ReadAt does, and then names the local file that has these bytes at the same offset, or nil where there is
	// none and ReadAt is the only way. The file stays the Blob's, as File's does.
	Ready(ctx context.Context, off int64, n int) (*os.File, error)
	// Size is how long the content is, in bytes.
	Size() int64
	// File is the whole verified content as a local file, or nil as long as, or wherever, there is none. It stays the
	// Blob's: valid until Close, to be read with ReadAt or by descriptor, not closed.
	File() *os.File
	io.Closer
}

// Blobs opens the content of any Source as a Blob, fetching it at most once however many ask.
type Blobs interface {
	Open(ctx context.Context, src Source, d Descriptor) (Blob, error)
}
