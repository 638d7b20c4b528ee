package image

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
)

// Transport is a kind of place that images live in, as their names begin with it (containers-transports(5)).
type Transport string

// The transports there are.
const (
	Registry          Transport = "docker"             // a repository of a registry
	OCI               Transport = "oci"                // an OCI image layout, a folder
	OCIArchive        Transport = "oci-archive"        // the same as a tar
	Dir               Transport = "dir"                // a folder with a manifest and blobs
	DockerArchive     Transport = "docker-archive"     // what docker save writes
	DockerDaemon      Transport = "docker-daemon"      // what a Docker engine has
	ContainersStorage Transport = "containers-storage" // what podman, buildah and CRI-O have
	SIF               Transport = "sif"                // an image of Singularity or Apptainer, a file
	Tarball           Transport = "tarball"            // one layer or more, tars of files
	OSTree            Transport = "ostree"             // an OSTree repository
)

// Ref is the name of an image: the kind of its place, where that is, and which of its images is meant.
type Ref struct {
	Transport Transport
	// Path is the file or the folder; the files of a tarball: one after the other with ":" between them; of a containers-storage
	// what stood in brackets, "" for the store of storage.conf; and "" for a registry or an engine, which are at no path.
	Path string
	// Repository is the full name without tag, where images have full names: all but layouts, dir:, sif: and tarball:. It is zero
	// where none was given.
	Repository Repository
	// Tag is the tag or, in a layout, the name. "" is for the only image there is.
	Tag string
	// Digest is that of a manifest, "" for none.
	Digest digest.Digest
	// ID is a Docker engine's or a containers-storage's name of an image: the digest of its config in hexadecimal, or the beginning
	// of one. "" for none.
	ID string
	// Position is the place of the image in an index.json or a docker archive, counted from 0; -1 for none.
	Position int

	text string
}

// String is the name as it was given.
func (r Ref) String() string { return r.text }

// Place is the name of the place alone, as ParsePlace reads it.
func (r Ref) Place() string {
	switch {
	case r.Transport == Registry:
		return "docker://"
	case r.Transport == ContainersStorage && r.Path != "":
		return string(r.Transport) + ":[" + r.Path + "]"
	}
	return string(r.Transport) + ":" + r.Path
}

// Name is what Source.Resolve of the place is asked for: a digest, the tag, "@" and a position or an ID, or "".
func (r Ref) Name() string {
	switch {
	case r.Digest != "":
		return r.Digest.String()
	case r.ID != "":
		return "@" + r.ID
	case r.Position >= 0:
		return "@" + strconv.Itoa(r.Position)
	}
	return r.Tag
}

// ErrName is the kind of all errors of ParseRef.
var ErrName = errors.New("not the name of an image")

// ParseRef reads the name of an image as podman and skopeo do (containers-transports(5)), and a digest at the end of an oci: one,
// which they do not have. A name without a tag is that of latest where images have full names.
func ParseRef(text string) (Ref, error) {
	r := Ref{text: text, Position: -1}
	transport, rest, found := strings.Cut(text, ":")
	parse := grammars[Transport(transport)]
	err := unknownTransport(transport, found)
	if found && parse != nil {
		r.Transport = Transport(transport)
		err = parse(&r, rest)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("%q: %w", text, &nameError{err})
	}
	return r, nil
}

// nameError is an ErrName, in better words.
type nameError struct{ error }

func (e *nameError) Unwrap() []error { return []error{e.error, ErrName} }

func unknownTransport(transport string, found bool) error {
	const usage = "write docker://HOST/REPOSITORY[:TAG|@DIGEST], oci:PATH[:TAG], or another of containers-transports(5)"
	if found && transport != "" && !strings.ContainsAny(transport, "./") {
		return fmt.Errorf("there is no transport %q: %s", transport+":", usage)
	}
	return fmt.Errorf("a transport is missing: %s", usage)
}

// grammars read what stands behind each transport's colon.
var grammars = map[Transport]func(r *Ref, rest string) error{
	Registry: func(r *Ref, rest string) error {
		name, ok := strings.CutPrefix(rest, "//")
		if !ok {
			return errors.New(`write "docker://" with two slashes`)
		}
		return r.fullName(name)
	},
	OCI:               (*Ref).layoutName,
	OCIArchive:        (*Ref).layoutName,
	Dir:               (*Ref).onlyPath,
	SIF:               (*Ref).onlyPath,
	Tarball:           (*Ref).onlyPath,
	DockerArchive:     (*Ref).archiveName,
	DockerDaemon:      (*Ref).engineName,
	ContainersStorage: (*Ref).storageName,
	OSTree:            (*Ref).ostreeName,
}

// fullName reads a name as podman and docker do: alpine is docker.io/library/alpine:latest.
func (r *Ref) fullName(name string) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	_, hasTag := named.(reference.Tagged)
	digested, hasDigest := named.(reference.Digested)
	switch {
	case hasTag && hasDigest:
		return errors.New("a tag and a digest name two images: leave one of them away")
	case hasDigest:
		r.Digest = digested.Digest()
	default:
		r.Tag = reference.TagNameOnly(named).(reference.Tagged).Tag()
	}
	r.Repository = Repository{Host: reference.Domain(named), Name: reference.Path(named)}
	return nil
}

func (r *Ref) onlyPath(rest string) error {
	if rest == "" {
		return errors.New("the path is empty")
	}
	r.Path = rest
	return nil
}

// layoutName reads a name as skopeo does, where the path ends at the first colon, and takes a digest at the end of it.
func (r *Ref) layoutName(rest string) error {
	if at := strings.LastIndex(rest, "@"); at >= 0 && digest.Digest(rest[at+1:]).Validate() == nil {
		rest, r.Digest = rest[:at], digest.Digest(rest[at+1:])
	}
	place, tag, hasTag := strings.Cut(rest, ":")
	if err := r.onlyPath(place); err != nil {
		return err
	}
	if position, ok := strings.CutPrefix(tag, "@"); ok {
		return r.position(position)
	}
	if hasTag && !ValidLayoutName(tag) {
		return fmt.Errorf("no image can have the tag %q", tag)
	}
	r.Tag = tag
	return nil
}

func (r *Ref) position(text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || r.Digest != "" {
		return fmt.Errorf("@%s is no position: write @0 for the first image", text)
	}
	r.Position = int(n)
	return nil
}

// archiveName reads path[:reference|:@position].
func (r *Ref) archiveName(rest string) error {
	place, name, named := strings.Cut(rest, ":")
	if err := r.onlyPath(place); err != nil || !named {
		return err
	}
	if position, ok := strings.CutPrefix(name, "@"); ok {
		return r.position(position)
	}
	if err := r.fullName(name); err != nil {
		return err
	}
	if r.Digest != "" {
		return errors.New("a docker archive knows no digests: write a tag")
	}
	return nil
}

// engineName reads reference or algorithm:id.
func (r *Ref) engineName(rest string) error {
	if id := digest.Digest(rest); id.Validate() == nil {
		r.ID = id.Encoded()
		return nil
	}
	return r.fullName(rest)
}

// imageID is that of a containers-storage, or what begins it.
var imageID = regexp.MustCompile(`^[0-9a-f]{3,64}$`)

// storageName reads [[driver@]graphroot[+runroot][:options]]{reference[@id]|@id}, the store in brackets of its own.
func (r *Ref) storageName(rest string) error {
	if store, ok := strings.CutPrefix(rest, "["); ok {
		if r.Path, rest, ok = strings.Cut(store, "]"); !ok || r.Path == "" {
			return errors.New("the store in brackets has no end, or nothing in it")
		}
	}
	name := rest
	if at := strings.LastIndex(rest, "@"); at >= 0 && imageID.MatchString(rest[at+1:]) {
		name, r.ID = rest[:at], rest[at+1:]
	}
	if name == "" && r.ID != "" {
		return nil
	}
	return r.fullName(name)
}

// ostreeName reads reference[@/absolute/path].
func (r *Ref) ostreeName(rest string) error {
	name, place, found := strings.Cut(rest, "@/")
	r.Path = "/ostree/repo"
	if found {
		r.Path = path.Clean("/" + place)
	}
	if err := r.fullName(name); err != nil {
		return err
	}
	if r.Digest != "" {
		return errors.New("an OSTree repository knows no digests: write a tag")
	}
	return nil
}

// ParsePlace reads the name of a place without that of an image in it: docker://, containers-storage:[STORE], docker-daemon:, or a
// transport and a path.
func ParsePlace(text string) (Ref, error) {
	r := Ref{text: text, Position: -1}
	transport, rest, found := strings.Cut(text, ":")
	err := unknownTransport(transport, found)
	if r.Transport = Transport(transport); found && grammars[r.Transport] != nil {
		err = r.place(rest)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("%q: %w", text, &nameError{err})
	}
	return r, nil
}

// place reads what stands behind the colon of a place's name.
func (r *Ref) place(rest string) error {
	switch r.Transport {
	case Registry, DockerDaemon:
		if strings.Trim(rest, "/") != "" {
			return errors.New("leave the image away: a place is meant")
		}
		return nil
	case ContainersStorage:
		store, ok := strings.CutPrefix(rest, "[")
		if rest == "" || ok && strings.HasSuffix(store, "]") {
			r.Path = strings.TrimSuffix(store, "]")
			return nil
		}
		return errors.New("leave the image away, or write the store in brackets: a place is meant")
	case OSTree:
		r.Path = rest
		return r.onlyPath(rest)
	case OCI, OCIArchive, DockerArchive:
		if strings.Contains(rest, ":") {
			return errors.New("leave the image away: a place is meant")
		}
	}
	return r.onlyPath(rest)
}
