package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/regfs/regfs/cache"
)

// controlFiles are the files of .regfs/ that tell of the daemon as a whole.
func controlFiles(c *config, store *cache.Cache) map[string]func() []byte {
	started := time.Now()
	return map[string]func() []byte{
		"config.json": func() []byte { return indented(c.describe()) },
		"status.json": func() []byte { return indented(describeStatus(c, started, store.Stats())) },
		"metrics":     func() []byte { return metrics(store.Stats()) },
	}
}

// describe is the configuration in effect, named as the flags are.
func (c *config) describe() map[string]any {
	platform := strings.TrimSuffix(c.platform.OS+"/"+c.platform.Architecture+"/"+c.platform.Variant, "/")
	return map[string]any{
		"mountpoint": c.mountpoint, "foreground": c.foreground,
		"allow-other": c.allowOther, "read-only": c.readOnly, "option": append([]string{}, c.options...),
		"cache-dir": c.cacheDir, "cache-size": c.cacheSize, "tag-ttl": c.tagTTL.String(), "offline": c.offline,
		"platform": platform, "insecure": append([]string{}, c.insecure...), "timeout": c.timeout.String(),
		"log-file": c.logFile, "log-level": c.logLevel.String(),
	}
}

func describeStatus(c *config, started time.Time, s cache.Stats) map[string]any {
	return map[string]any{
		"version": release(), "pid": os.Getpid(), "mountpoint": c.mountpoint,
		"started": started.UTC().Format(time.RFC3339),
		"cache": map[string]int64{
			"hits": s.Hits, "misses": s.Misses, "fetches": s.Fetches, "bytes_fetched": s.BytesFetched, "bytes_on_disk": s.BytesOnDisk,
		},
	}
}

// metrics is what the cache counts, in Prometheus' text exposition format.
func metrics(s cache.Stats) []byte {
	var b strings.Builder
	add := func(name, kind, help string, value int64) {
		fmt.Fprintf(&b, "# HELP regfs_%s %s\n# TYPE regfs_%s %s\nregfs_%s %d\n", name, help, name, kind, name, value)
	}
	add("cache_hits_total", "counter", "Blobs and manifests that were complete on disk.", s.Hits)
	add("cache_misses_total", "counter", "Blobs and manifests that were not.", s.Misses)
	add("cache_fetches_total", "counter", "Transfers of blobs begun.", s.Fetches)
	add("cache_fetched_bytes_total", "counter", "Bytes of blobs fetched from registries.", s.BytesFetched)
	add("cache_disk_bytes", "gauge", "What the cache takes on disk, approximately.", s.BytesOnDisk)
	return []byte(b.String())
}

func indented(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps of strings and numbers always have a JSON form
	}
	return append(b, '\n')
}
