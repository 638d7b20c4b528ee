package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/image"
)

func TestParseName(t *testing.T) {
	const dgst = digest.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	for text, want := range map[string]name{
		"docker://quay.io/podman/stable":    {repository: image.Repository{Host: "quay.io", Name: "podman/stable"}, tag: "latest"},
		"docker://quay.io/podman/stable:v5": {repository: image.Repository{Host: "quay.io", Name: "podman/stable"}, tag: "v5"},
		"docker://localhost:5000/a":         {repository: image.Repository{Host: "localhost:5000", Name: "a"}, tag: "latest"},
		"docker://alpine":                   {repository: image.Repository{Host: "docker.io", Name: "library/alpine"}, tag: "latest"},
		"docker://docker.io/alpine:3":       {repository: image.Repository{Host: "docker.io", Name: "library/alpine"}, tag: "3"},
		"docker://user/image":               {repository: image.Repository{Host: "docker.io", Name: "user/image"}, tag: "latest"},
		"docker://a.b/c@" + string(dgst):    {repository: image.Repository{Host: "a.b", Name: "c"}, digest: dgst},
		"oci:dir":                           {path: "dir"},
		"oci:/a/b@c":                        {path: "/a/b@c"},
		"oci:dir:v1":                        {path: "dir", tag: "v1"},
		"oci:dir:docker.io/alpine:3":        {path: "dir", tag: "docker.io/alpine:3"},
		"oci:dir@" + string(dgst):           {path: "dir", digest: dgst},
		"oci:dir:v1@" + string(dgst):        {path: "dir", tag: "v1", digest: dgst},
	} {
		want.text = text
		got, err := parseName(text)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(name{})); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	const dgst = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for text, want := range map[string]string{
		"":                         "a transport is missing",
		"alpine":                   "a transport is missing",
		"alpine:3":                 `no transport "alpine:"`,
		"quay.io/podman/stable:v5": "a transport is missing",
		"./dir":                    "a transport is missing",
		"dir:/tmp/x":               `no transport "dir:"`,
		"docker:alpine":            `no transport "docker:"`,
		"docker://":                "invalid reference",
		"docker://Alpine":          "must be lowercase",
		"docker://a b":             "invalid reference",
		"docker://a@sha256:1":      "invalid reference",
		"docker://a:v1@" + dgst:    "two images",
		"oci:":                     "the path is empty",
		"oci::v1":                  "the path is empty",
		"oci:dir:":                 "no image can have the tag",
		"oci:dir:a b":              "no image can have the tag",
		"oci:dir:@0":               "not by their place",
	} {
		_, err := parseName(text)
		if err == nil || !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want an error of usage that says %q", text, err, want)
		}
	}
}
