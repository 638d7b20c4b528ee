package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"

	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layout/oci"
)

// The transports there are, as names begin with them.
const (
	dockerTransport = "docker://"
	ociTransport    = "oci:"
)

// name is what one side of a copy is called (containers-transports(5)).
type name struct {
	text       string // as it was given
	repository image.Repository
	path       string // of an OCI image layout; "" where there is a repository
	tag        string // "" for none
	digest     digest.Digest
}

func (n name) String() string { return n.text }

// parseName reads docker://HOST/REPOSITORY[:TAG|@DIGEST] or oci:PATH[:TAG][@DIGEST].
func parseName(text string) (name, error) {
	n := name{text: text}
	var err error
	if rest, ok := strings.CutPrefix(text, dockerTransport); ok {
		err = n.parseDocker(rest)
	} else if rest, ok := strings.CutPrefix(text, ociTransport); ok {
		err = n.parseOCI(rest)
	} else {
		err = unknownTransport(text)
	}
	if err != nil {
		return n, usageError{fmt.Errorf("%q: %w", text, err)}
	}
	return n, nil
}

func unknownTransport(text string) error {
	const usage = "write docker://HOST/REPOSITORY[:TAG|@DIGEST] or oci:PATH[:TAG]"
	transport, _, found := strings.Cut(text, ":")
	if found && transport != "" && !strings.ContainsAny(transport, "./") {
		return fmt.Errorf("there is no transport %q: %s", transport+":", usage)
	}
	return fmt.Errorf("a transport is missing: %s", usage)
}

// parseDocker reads a name as podman and docker do: docker://alpine is docker.io/library/alpine:latest.
func (n *name) parseDocker(rest string) error {
	named, err := reference.ParseNormalizedNamed(rest)
	if err != nil {
		return err
	}
	_, hasTag := named.(reference.Tagged)
	digested, hasDigest := named.(reference.Digested)
	switch {
	case hasTag && hasDigest:
		return errors.New("a tag and a digest name two images: leave one of them away")
	case hasDigest:
		n.digest = digested.Digest()
	default:
		n.tag = reference.TagNameOnly(named).(reference.Tagged).Tag()
	}
	n.repository = image.Repository{Host: reference.Domain(named), Name: reference.Path(named)}
	return nil
}

// parseOCI reads a name as skopeo does, where the path ends at the first colon, and takes a digest at the end of it.
func (n *name) parseOCI(rest string) error {
	if at := strings.LastIndex(rest, "@"); at >= 0 && digest.Digest(rest[at+1:]).Validate() == nil {
		rest, n.digest = rest[:at], digest.Digest(rest[at+1:])
	}
	path, tag, hasTag := strings.Cut(rest, ":")
	switch {
	case path == "":
		return errors.New("the path is empty")
	case strings.HasPrefix(tag, "@"):
		return errors.New("images are named by tag or digest here, and not by their place in the index")
	case hasTag && !oci.ValidName(tag):
		return fmt.Errorf("no image can have the tag %q", tag)
	}
	n.path, n.tag = path, tag
	return nil
}
