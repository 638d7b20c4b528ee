package image

import (
	"strings"
	"testing"
)

func TestLayerTypes(t *testing.T) {
	for mediaType, want := range map[string]LayerType{
		"application/vnd.oci.image.layer.v1.tar":                                 {},
		"application/vnd.oci.image.layer.v1.tar+gzip":                            {Compression: Gzip},
		"application/vnd.oci.image.layer.v1.tar+zstd":                            {Compression: Zstd},
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":                  {Compression: Gzip, Encrypted: true},
		"application/vnd.oci.image.layer.v1.tar+encrypted":                       {Encrypted: true},
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip":           {Foreign: true, Compression: Gzip},
		"application/vnd.docker.image.rootfs.diff.tar":                           {Docker: true},
		"application/vnd.docker.image.rootfs.diff.tar.gzip":                      {Docker: true, Compression: Gzip},
		"application/vnd.docker.image.rootfs.diff.tar.zstd":                      {Docker: true, Compression: Zstd},
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":              {Docker: true, Foreign: true, Compression: Gzip},
		"application/vnd.docker.image.rootfs.foreign.diff.tar":                   {Docker: true, Foreign: true},
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd+encrypted": {Foreign: true, Compression: Zstd, Encrypted: true},
	} {
		got, ok := ParseLayerType(mediaType)
		if !ok || got != want {
			t.Errorf("%s: %+v, %v", mediaType, got, ok)
		}
		if got.String() != mediaType {
			t.Errorf("%s became %s", mediaType, got)
		}
	}
	for _, other := range []string{
		"", "application/vnd.oci.image.layer.v1.tar+lz4", "application/vnd.oci.image.layer.v1.tar.gzip", "application/vnd.in-toto+json",
		"application/vnd.docker.image.rootfs.diff.tar+gzip", "application/vnd.oci.image.config.v1+json", "+encrypted",
	} {
		if got, ok := ParseLayerType(other); ok {
			t.Errorf("%q is %+v", other, got)
		}
	}
}

func TestIsPlatform(t *testing.T) {
	for pair, want := range map[string]bool{
		"linux/arm/v7 linux/arm": true, "linux/arm linux/arm/v7": true, "linux/arm/v6 linux/arm/v7": false,
		"linux/amd64 windows/amd64": false, "linux/amd64 linux/arm64": false, "linux/arm64/v8 linux/arm64": true,
	} {
		name, filter, _ := strings.Cut(pair, " ")
		p, err := ParsePlatform(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParsePlatform(filter)
		if err != nil {
			t.Fatal(err)
		}
		if IsPlatform(p, f) != want {
			t.Errorf("%s: %v", pair, !want)
		}
	}
}
