package dir

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// manifestFile is what the image is.
const manifestFile = "manifest.json"

// blobFile is the file of a blob. The digest must be valid.
func blobFile(dgst digest.Digest) string {
	if dgst.Algorithm() == digest.Canonical {
		return dgst.Encoded()
	}
	return dgst.Algorithm().String() + "-" + dgst.Encoded()
}

// instanceFile is that of a manifest below an index.
func instanceFile(dgst digest.Digest) string { return blobFile(dgst) + ".manifest.json" }

// signatureFile is that of the n-th signature, from 1 on, of what manifest.json is, or of a manifest below it: prefix is
// its blobFile and a dot.
func signatureFile(prefix string, n int) string { return fmt.Sprintf("%ssignature-%d", prefix, n) }

// rootSignature is the name of a signature of what manifest.json is.
var rootSignature = regexp.MustCompile(`^signature-[1-9][0-9]*$`)

// named is the name of a file that has a digest in it: a blob, a manifest or a signature of one.
var named = regexp.MustCompile(`^(?:(sha384|sha512)-)?([0-9a-f]+)(?:\.manifest\.json|\.signature-[1-9][0-9]*)?$`)

// digestOf is the digest that a file's name has in it.
func digestOf(name string) (digest.Digest, bool) {
	parts := named.FindStringSubmatch(name)
	if parts == nil {
		return "", false
	}
	algorithm := parts[1]
	if algorithm == "" {
		algorithm = string(digest.Canonical)
	}
	dgst := digest.Digest(strings.Join([]string{algorithm, parts[2]}, ":"))
	return dgst, dgst.Validate() == nil
}
