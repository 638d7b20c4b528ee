package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
)

const someDigest = digest.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

func TestParseRef(t *testing.T) {
	alpine, quay := Repository{"docker.io", "library/alpine"}, Repository{"quay.io", "podman/stable"}
	id := someDigest.Encoded()
	for text, want := range map[string]Ref{
		"docker://quay.io/podman/stable":         {Transport: Registry, Repository: quay, Tag: "latest"},
		"docker://quay.io/podman/stable:v5":      {Transport: Registry, Repository: quay, Tag: "v5"},
		"docker://localhost:5000/a":              {Transport: Registry, Repository: Repository{"localhost:5000", "a"}, Tag: "latest"},
		"docker://alpine":                        {Transport: Registry, Repository: alpine, Tag: "latest"},
		"docker://docker.io/alpine:3":            {Transport: Registry, Repository: alpine, Tag: "3"},
		"docker://user/image":                    {Transport: Registry, Repository: Repository{"docker.io", "user/image"}, Tag: "latest"},
		"docker://a.b/c@" + string(someDigest):   {Transport: Registry, Repository: Repository{"a.b", "c"}, Digest: someDigest},
		"oci:dir":                                {Transport: OCI, Path: "dir"},
		"oci:/a/b@c":                             {Transport: OCI, Path: "/a/b@c"},
		"oci:dir:v1":                             {Transport: OCI, Path: "dir", Tag: "v1"},
		"oci:dir:docker.io/alpine:3":             {Transport: OCI, Path: "dir", Tag: "docker.io/alpine:3"},
		"oci:dir@" + string(someDigest):          {Transport: OCI, Path: "dir", Digest: someDigest},
		"oci:dir:v1@" + string(someDigest):       {Transport: OCI, Path: "dir", Tag: "v1", Digest: someDigest},
		"oci:dir:@0":                             {Transport: OCI, Path: "dir", Position: 1},
		"oci-archive:a.tar":                      {Transport: OCIArchive, Path: "a.tar"},
		"oci-archive:a.tar:v1":                   {Transport: OCIArchive, Path: "a.tar", Tag: "v1"},
		"oci-archive:a.tar:@12":                  {Transport: OCIArchive, Path: "a.tar", Position: 13},
		"dir:/a:b":                               {Transport: Dir, Path: "/a:b"},
		"sif:a.sif":                              {Transport: SIF, Path: "a.sif"},
		"tarball:a.tar:b.tar.gz":                 {Transport: Tarball, Path: "a.tar:b.tar.gz"},
		"docker-archive:a.tar":                   {Transport: DockerArchive, Path: "a.tar"},
		"docker-archive:a.tar:alpine":            {Transport: DockerArchive, Path: "a.tar", Repository: alpine, Tag: "latest"},
		"docker-archive:a.tar:alpine:3":          {Transport: DockerArchive, Path: "a.tar", Repository: alpine, Tag: "3"},
		"docker-archive:a.tar:@2":                {Transport: DockerArchive, Path: "a.tar", Position: 3},
		"docker-daemon:alpine:3":                 {Transport: DockerDaemon, Repository: alpine, Tag: "3"},
		"docker-daemon:" + string(someDigest):    {Transport: DockerDaemon, ID: id},
		"containers-storage:alpine":              {Transport: ContainersStorage, Repository: alpine, Tag: "latest"},
		"containers-storage:@" + id:              {Transport: ContainersStorage, ID: id},
		"containers-storage:alpine:3@" + id[:12]: {Transport: ContainersStorage, Repository: alpine, Tag: "3", ID: id[:12]},
		"containers-storage:[overlay@/a+/b:x=y]quay.io/podman/stable": {Transport: ContainersStorage, Path: "overlay@/a+/b:x=y", Repository: quay, Tag: "latest"},
		"containers-storage:alpine@" + string(someDigest):             {Transport: ContainersStorage, Repository: alpine, Digest: someDigest},
		"ostree:alpine":           {Transport: OSTree, Path: "/ostree/repo", Repository: alpine, Tag: "latest"},
		"ostree:alpine:3@/a/repo": {Transport: OSTree, Path: "/a/repo", Repository: alpine, Tag: "3"},
	} {
		want.Position-- // 0 stands for none above
		got, err := ParseRef(text)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Ref{})); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
		if err == nil && got.String() != text {
			t.Errorf("%s is called %s", text, got)
		}
	}
}

func TestRefName(t *testing.T) {
	for text, want := range map[string]string{
		"docker://alpine": "latest", "docker://alpine@" + string(someDigest): string(someDigest), "oci:a": "", "oci:a:b": "b", "oci:a:@7": "@7",
		"oci:a:b@" + string(someDigest): string(someDigest), "containers-storage:@abc123": "@abc123", "dir:a": "",
	} {
		if r, err := ParseRef(text); err != nil || r.Name() != want {
			t.Errorf("%s names %q, %v; want %q", text, r.Name(), err, want)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "a transport is missing",
		"alpine":                              "a transport is missing",
		"alpine:3":                            `no transport "alpine:"`,
		"quay.io/podman/stable:v5":            "a transport is missing",
		"./dir":                               "a transport is missing",
		"atomic:x":                            `no transport "atomic:"`,
		"docker:alpine":                       "two slashes",
		"docker://":                           "invalid reference",
		"docker://Alpine":                     "must be lowercase",
		"docker://a b":                        "invalid reference",
		"docker://a@sha256:1":                 "invalid reference",
		"docker://a:v1@" + string(someDigest): "two images",
		"oci:":                                "the path is empty",
		"oci::v1":                             "the path is empty",
		"oci:dir:":                            "no image can have the tag",
		"oci:dir:a b":                         "no image can have the tag",
		"oci:dir:@x":                          "no position",
		"oci:dir:@-1":                         "no position",
		"oci:dir:@0@" + string(someDigest):    "no position",
		"dir:":                                "the path is empty",
		"docker-archive:a.tar:":               "invalid reference",
		"docker-archive:a.tar:@99999999999":   "no position",
		"docker-archive:a.tar:b@" + string(someDigest): "no digests",
		"docker-daemon:":                 "invalid reference",
		"containers-storage:":            "invalid reference",
		"containers-storage:[/a":         "no end",
		"containers-storage:[]a":         "nothing in it",
		"ostree:@/a":                     "invalid reference",
		"ostree:b@" + string(someDigest): "no digests",
	} {
		_, err := ParseRef(text)
		if err == nil || !errors.Is(err, ErrName) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want an error that says %q", text, err, want)
		}
	}
}

func TestParsePlace(t *testing.T) {
	for text, want := range map[string]Ref{
		"docker://":                      {Transport: Registry},
		"docker-daemon:":                 {Transport: DockerDaemon},
		"containers-storage:":            {Transport: ContainersStorage},
		"containers-storage:[vfs@/a+/b]": {Transport: ContainersStorage, Path: "vfs@/a+/b"},
		"oci:/a/b":                       {Transport: OCI, Path: "/a/b"},
		"dir:a":                          {Transport: Dir, Path: "a"},
		"docker-archive:a.tar":           {Transport: DockerArchive, Path: "a.tar"},
		"tarball:a:b":                    {Transport: Tarball, Path: "a:b"},
	} {
		want.Position = -1
		got, err := ParsePlace(text)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Ref{})); diff != "" || err != nil || got.Place() != text {
			t.Errorf("%s: %s %v\n%s", text, got.Place(), err, diff)
		}
	}
	for _, text := range []string{"", "a", "oci:", "oci:a:b", "docker://alpine", "docker-daemon:a", "containers-storage:a", "containers-storage:[a]b", "x:y"} {
		if r, err := ParsePlace(text); !errors.Is(err, ErrName) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}
