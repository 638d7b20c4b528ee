package image

import (
	"fmt"
	"slices"
	"strings"
)

// ParsePlatform reads os/arch or os/arch/variant.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("platform %q is not os/arch or os/arch/variant, such as linux/arm64", s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// Select finds the entry of an index for a platform: the best variant that runs there, and of equals the first, as the
// image-spec says. An index whose only entry names no platform is for all.
func Select(manifests []Descriptor, want Platform) (Descriptor, bool) {
	if len(manifests) == 1 && manifests[0].Platform == nil {
		return manifests[0], true
	}
	for _, variant := range variants(want) {
		for _, d := range manifests {
			p := d.Platform
			if p != nil && p.OS == want.OS && p.Architecture == want.Architecture && normal(*p) == variant {
				return d, true
			}
		}
	}
	return Descriptor{}, false
}

// variants are those that run on a platform, best first. Later variants of arm and amd64 run the code of the earlier ones.
func variants(p Platform) []string {
	lines := map[string][]string{"arm": {"v8", "v7", "v6", "v5"}, "amd64": {"v4", "v3", "v2", "v1"}, "arm64": {"v9", "v8"}}
	line, variant := lines[p.Architecture], normal(p)
	if i := slices.Index(line, variant); i >= 0 {
		return line[i:]
	}
	return []string{variant}
}

// normal is a platform's variant, with what leaving it out means filled in.
func normal(p Platform) string {
	if p.Variant != "" {
		return p.Variant
	}
	return map[string]string{"arm": "v7", "arm64": "v8", "amd64": "v1"}[p.Architecture]
}
