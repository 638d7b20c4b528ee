package main

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
)

// controlFiles are the files of .regfs/ that tell of the daemon as a whole.
func controlFiles(c *config, store *cache.Cache, m *metrics) map[string]func() []byte {
	started := time.Now()
	return map[string]func() []byte{
		"config.json": func() []byte { return indented(c.describe()) },
		"status.json": func() []byte { return indented(describeStatus(c, started, store.Stats())) },
		"metrics":     m.text,
	}
}

// describe is the configuration in effect, named as the flags are.
func (c *config) describe() map[string]any {
	return map[string]any{
		"mountpoint": c.mountpoint, "sources": c.sources.describe(), "daemon-host": c.daemonHost, "foreground": c.foreground,
		"allow-other": c.allowOther, "read-only": c.readOnly, "option": append([]string{}, c.options...),
		"stage-dir": c.stageDir, "allow-delete": c.allowDelete,
		"cache-dir": c.cacheDir, "cache-size": c.cacheSize, "tag-ttl": c.tagTTL.String(), "offline": c.offline,
		"platform": platformName(c.platform), "whiteouts": c.whiteoutsName(), "insecure": append([]string{}, c.insecure...), "timeout": c.timeout.String(),
		"log-file": c.logFile, "log-level": c.logLevel.String(),
	}
}

// platformName is a platform as --platform takes it.
func platformName(p image.Platform) string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
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

func indented(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps of strings and numbers always have a JSON form
	}
	return append(b, '\n')
}
