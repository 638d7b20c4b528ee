package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/regfs/regfs/image"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "500M": 500 << 20, "10G": 10 << 30, "10GiB": 10 << 30, "10 GB": 10 << 30, "1.5g": 3 << 29, "2t": 2 << 40,
		"": 0, "0": 0, "-1": 0, "10X": 0, "G": 0, "10GG": 0, "99999999999P": 0,
	} {
		got, err := parseSize(s)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
}

// parse is the configuration that a command line makes.
func parse(args ...string) (config, error) {
	var c config
	f := pflag.NewFlagSet("mount", pflag.ContinueOnError)
	c.addFlags(f)
	return c, f.Parse(args)
}

func TestFlags(t *testing.T) {
	got, err := parse()
	want := config{
		cacheSize: 10 << 30, tagTTL: time.Minute, timeout: time.Minute,
		platform: image.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}, sources{}), cmpopts.IgnoreUnexported(image.Ref{})); diff != "" || err != nil {
		t.Errorf("without flags: %v %s", err, diff)
	}
	got, err = parse("-o", "ro,allow_other,noatime", "-o", "max_read=65536", "--platform=linux/arm/v7", "--insecure=a:1",
		"--insecure", "B.example", "--cache-size=1M", "--tag-ttl=0", "--timeout", "5s", "--offline", "--log-level", "debug", "-f",
		"--cache-dir=c", "--log-file=l")
	want = config{
		foreground: true, readOnly: true, allowOther: true, options: []string{"noatime", "max_read=65536"},
		cacheDir: "c", cacheSize: 1 << 20, timeout: 5 * time.Second, platform: image.Platform{OS: "linux", Architecture: "arm", Variant: "v7"},
		offline: true, insecure: []string{"a:1", "b.example"}, logFile: "l", logLevel: slog.LevelDebug,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}, sources{}), cmpopts.IgnoreUnexported(image.Ref{})); diff != "" || err != nil {
		t.Errorf("with all flags: %v %s", err, diff)
	}
}

func TestBadFlags(t *testing.T) {
	for _, arg := range []string{
		"--cache-size=0", "--cache-size=much", "--platform=linux", "--platform=a/b/c/d", "--platform=/", "--log-level=loud",
		"--timeout=1", "--tag-ttl=soon", "-oro,,noatime", "-o", "--option=",
	} {
		if c, err := parse(arg); err == nil {
			t.Errorf("%s: no error, but %+v", arg, c)
		}
	}
}

func TestLaterOptionsWin(t *testing.T) {
	c, err := parse("--read-only", "-orw")
	if err != nil || c.readOnly {
		t.Errorf("read-only and then rw: %v, %+v", err, c)
	}
}

func TestFinish(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := parse("--cache-dir", "cache", "--log-file=../log")
	if err := c.finish("mnt/"); err != nil {
		t.Fatal(err)
	}
	got := []string{c.mountpoint, c.cacheDir, c.logFile}
	want := []string{mnt, filepath.Join(dir, "cache"), filepath.Join(filepath.Dir(dir), "log")}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, flag := range []string{"--cache-dir=mnt/cache", "--cache-dir=mnt", "--log-file=mnt/log", "--timeout=0", "--timeout=-1s", "--tag-ttl=-1s"} {
		c, err := parse(flag)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.finish("mnt"); err == nil || !strings.Contains(err.Error(), strings.Split(flag, "=")[0]) {
			t.Errorf("%s: %v, want an error that names the flag", flag, err)
		}
	}
}

func TestDefaultLogFile(t *testing.T) {
	dir := t.TempDir()
	c, err := parse()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.finish(dir); err != nil {
		t.Fatal(err)
	}
	place, err := logPlace.path()
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(c.logFile) != place || !strings.HasSuffix(c.logFile, ".log") {
		t.Errorf("the log goes to %s", c.logFile)
	}
}
