package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/regfs/regfs/cache"
	"github.com/regfs/regfs/image"
	"github.com/regfs/regfs/layer"
)

// config is what a mount was asked for.
type config struct {
	mountpoint string
	sources    sources
	daemonHost string
	foreground bool

	allowOther bool
	readOnly   bool
	options    []string

	stageDir    string
	allowDelete bool

	cacheDir  string
	cacheSize int64
	tagTTL    time.Duration
	platform  image.Platform
	whiteouts layer.Whiteouts
	timeout   time.Duration
	offline   bool
	insecure  []string

	logFile  string
	logLevel slog.Level
}

// addFlags defines the flags of mount, which set c.
func (c *config) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.BoolVarP(&c.foreground, "foreground", "f", false, "stay, and log to stderr, for service managers")
	f.BoolVar(&c.allowOther, "allow-other", false, "let other users in")
	f.BoolVar(&c.readOnly, "read-only", false, "refuse all writing")
	f.BoolVar(&c.allowDelete, "allow-delete", false, "let rmdir and mv delete tags, and rmdir manifests")
	f.FuncP("option", "o", "mount `option`s, separated by commas: ro, allow_other, noatime, noexec, …;\nsuid and dev, for root alone, let programs and devices in layers be what they are there", c.setOptions)

	f.StringVar(&c.stageDir, "stage-dir", "", "keep what is written, until it is pushed, in this `folder`, for this mount alone\n(default "+helpPlace(stagePlace)+"/stage/MOUNTPOINT)")
	c.addCacheFlags(f)
	f.DurationVar(&c.tagTTL, "tag-ttl", time.Minute, "how long a tag is believed before the registry is asked again")
	f.BoolVar(&c.offline, "offline", false, "never ask a registry, serve what the cache has")

	f.StringVar(&c.daemonHost, "daemon-host", "", "the Docker engine of docker-daemon:, a `host` such as unix:///run/docker.sock (default $DOCKER_HOST)")

	c.addPlatformFlag(f, "show multi-platform images for this")
	f.Func("whiteouts", "show what a layer removes, in layers/NN/tree, as `names` (.wh.NAME, the default) or as\noverlay (character devices 0/0), which overlayfs understands", c.setWhiteouts)
	c.addRegistryFlags(f)

	f.StringVar(&c.logFile, "log-file", "", "log to this `file`, in the background (default "+helpPlace(logPlace)+"/MOUNTPOINT.log)")
	f.Func("log-level", "the least `level` to log: debug, info, warn or error (default info)", c.setLogLevel)
}

// addCacheFlags defines the flags of every command that fetches into the cache.
func (c *config) addCacheFlags(f *pflag.FlagSet) {
	c.cacheSize = cache.DefaultSize
	f.StringVar(&c.cacheDir, "cache-dir", "", "keep what was fetched in this `folder` (default "+helpPlace(cachePlace)+")")
	f.Func("cache-size", "how large that may get, a `size` such as 500M or 20G (default 10G)", c.setCacheSize)
}

func (c *config) addPlatformFlag(f *pflag.FlagSet, purpose string) {
	c.platform = image.Platform{OS: "linux", Architecture: thisArchitecture}
	f.Func("platform", purpose+" `platform` (default linux/"+thisArchitecture+")", c.setPlatform)
}

// thisArchitecture is that of images for this machine.
const thisArchitecture = runtime.GOARCH

// setOptions takes the value of one -o. What has a flag of its own here sets that; all else goes to the mount as it is.
func (c *config) setOptions(list string) error {
	for option := range strings.SplitSeq(list, ",") {
		switch option {
		case "":
			return errors.New("an option is empty")
		case "ro":
			c.readOnly = true
		case "rw":
			c.readOnly = false
		case "allow_other":
			c.allowOther = true
		default:
			c.options = append(c.options, option)
		}
	}
	return nil
}

func (c *config) setCacheSize(s string) error {
	size, err := parseSize(s)
	c.cacheSize = size
	return err
}

// parseSize reads a size in bytes, with units that are powers of 1024 however they are written: 500M, 1.5G, 10GiB, 10 GB.
func parseSize(s string) (int64, error) {
	size, err := units.RAMInBytes(s)
	if err != nil || size <= 0 {
		return 0, fmt.Errorf("%q is not a size, such as 500M or 10G", s)
	}
	return size, nil
}

// addInsecure takes one registry, in the form that names of registries are compared in.
func (c *config) addInsecure(host string) error {
	if !image.ValidHost(host) {
		return fmt.Errorf("%q is no registry's name, such as registry.example.com or localhost:5000", host)
	}
	c.insecure = append(c.insecure, strings.ToLower(host))
	return nil
}

func (c *config) setLogLevel(name string) error {
	if err := c.logLevel.UnmarshalText([]byte(name)); err != nil {
		return fmt.Errorf("%q is none of debug, info, warn and error", name)
	}
	return nil
}

// whiteouts are the values of --whiteouts.
var whiteouts = map[string]layer.Whiteouts{"names": layer.AsNames, "overlay": layer.AsOverlay}

func (c *config) setWhiteouts(s string) error {
	w, ok := whiteouts[s]
	if !ok {
		return fmt.Errorf("%q is neither names nor overlay", s)
	}
	c.whiteouts = w
	return nil
}

// whiteoutsName is the value of --whiteouts that is in effect.
func (c *config) whiteoutsName() string {
	for name, w := range whiteouts {
		if w == c.whiteouts {
			return name
		}
	}
	return ""
}

func (c *config) setPlatform(s string) error {
	p, err := image.ParsePlatform(s)
	c.platform = p
	return err
}

// finish checks what no flag can check alone, fills in what depends on the user and the mountpoint, and makes all names
// absolute, because the daemon runs in another folder.
func (c *config) finish(mountpoint string) error {
	if err := c.checkTimeout(); err != nil {
		return err
	}
	if c.tagTTL < 0 {
		return usageError{fmt.Errorf("a --tag-ttl of %v is less than none", c.tagTTL)}
	}
	var err error
	if c.mountpoint, err = resolve(mountpoint); err != nil {
		return err
	}
	if err := c.sources.absolute(); err != nil {
		return err
	}
	if err := c.placeStage(); err != nil {
		return err
	}
	if err := c.place(&c.cacheDir, "--cache-dir", cachePlace); err != nil || c.foreground {
		return err
	}
	isDefault := c.logFile == ""
	if err := c.place(&c.logFile, "--log-file", logPlace); err != nil {
		return err
	}
	if !isDefault {
		return nil
	}
	if err := os.MkdirAll(c.logFile, 0o755); err != nil {
		return fmt.Errorf("log file: %w: choose another with --log-file", err)
	}
	c.logFile = filepath.Join(c.logFile, unit.UnitNamePathEscape(c.mountpoint)+".log")
	return nil
}

// placeStage finds the folder of what is written. Each mount has its own.
func (c *config) placeStage() error {
	isDefault := c.stageDir == ""
	err := c.place(&c.stageDir, "--stage-dir", stagePlace)
	if isDefault {
		c.stageDir = filepath.Join(c.stageDir, "stage", unit.UnitNamePathEscape(c.mountpoint))
	}
	return err
}

// standard is where something goes by default: system for root; for others regfs in the folder that the environment variable
// names or, without it, in the one below their home (XDG Base Directory Specification).
type standard struct{ system, variable, home string }

var (
	cachePlace = standard{"/var/cache/regfs", "XDG_CACHE_HOME", ".cache"}
	stagePlace = standard{"/var/lib/regfs", "XDG_STATE_HOME", ".local/state"}
	logPlace   = standard{"/var/log/regfs", "XDG_STATE_HOME", ".local/state"}
)

func (s standard) path() (string, error) {
	if os.Geteuid() == 0 {
		return s.system, nil
	}
	if dir := os.Getenv(s.variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "regfs"), nil
	}
	dir, err := os.UserHomeDir()
	return filepath.Join(dir, s.home, "regfs"), err
}

// helpPlace is the place as a help text shows it, also to who has no home.
func helpPlace(s standard) string {
	path, err := s.path()
	if err != nil {
		return "~/" + path
	}
	return path
}

// place makes a name absolute and, where there is none, takes the standard place.
func (c *config) place(name *string, flag string, s standard) error {
	if *name == "" {
		dir, err := s.path()
		if err != nil {
			return fmt.Errorf("%v: say where with %s", err, flag)
		}
		*name = dir
	}
	abs, err := filepath.Abs(*name)
	if err != nil {
		return err
	}
	*name = abs
	if c.mountpoint != "" && strings.HasPrefix(abs+"/", c.mountpoint+"/") {
		return fmt.Errorf("%s is inside the mount: choose another with %s", abs, flag)
	}
	return nil
}
