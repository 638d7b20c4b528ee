package main

import (
	"errors"
	"fmt"
	"strings"

	encryption "github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/helpers"
	"github.com/spf13/pflag"

	"github.com/regfs/regfs/copy"
	"github.com/regfs/regfs/image"
)

// copyFlags are what a copy was asked for beside its two ends.
type copyFlags struct {
	quiet bool

	all       bool
	multiArch string
	platforms []image.Platform

	format      string
	compress    string
	level       int
	force       bool
	decompress  bool
	preserve    bool
	encryptFor  []string
	encrypt     []int
	decryptKeys []string

	extraTags []string
	// The Docker engines and shared folders of blobs of the two ends.
	sourceDaemon, destinationDaemon string
	sourceBlobs, destinationBlobs   string
	tempDir                         string

	flags *pflag.FlagSet
}

// add defines the flags, which are named as skopeo's are.
func (o *copyFlags) add(f *pflag.FlagSet) {
	o.flags = f
	f.SortFlags = false
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing unless it fails")
	f.BoolVarP(&o.all, "all", "a", false, "copy all platforms of a multi-platform image, or fail (default: all, or the one for\nthis machine where the destination holds no more)")
	f.StringVar(&o.multiArch, "multi-arch", "", "copy `part` of a multi-platform image: all, system (the one for --platform), or\nindex-only")
	f.Func("platform", "copy these of its `platforms`, such as linux/arm64 (repeatable), and an index of them;\nwith --multi-arch system that image alone (default linux/"+thisArchitecture+")", o.addPlatform)

	f.StringVarP(&o.format, "format", "f", "", "convert the manifest to this `format`: oci, v2s2 or v2s1 (default: oci in layouts,\nelse as it is, if the destination takes it)")
	f.StringVar(&o.compress, "dest-compress-format", "", "compress layers with this `algorithm`: gzip, zstd or zstd:chunked")
	f.IntVar(&o.level, "dest-compress-level", 0, "the `level` of that: gzip has 0 to 9, zstd 1 to 22")
	f.BoolVar(&o.force, "dest-force-compress-format", false, "have all layers in the --dest-compress-format, which they get in any case; with a\n--dest-compress-level compress those anew that have it already")
	f.BoolVar(&o.decompress, "dest-decompress", false, "decompress layers")
	f.BoolVar(&o.preserve, "preserve-digests", false, "fail rather than change a digest")

	f.StringArrayVar(&o.encryptFor, "encryption-key", nil, "encrypt layers for this `protocol:keyfile`, such as jwe:public.pem (repeatable)")
	f.IntSliceVar(&o.encrypt, "encrypt-layer", nil, "encrypt only these `layers`, from 0 at the base or from -1 at the top")
	f.StringArrayVar(&o.decryptKeys, "decryption-key", nil, "decrypt layers with this `key[:passphrase]` (repeatable)")

	f.StringArrayVar(&o.extraTags, "additional-tag", nil, "put the image under this `tag` of the destination, too (repeatable)")
	f.StringVar(&o.sourceDaemon, "src-daemon-host", "", "the Docker engine of docker-daemon: sources, a `host` such as unix:///run/docker.sock (default $DOCKER_HOST)")
	f.StringVar(&o.destinationDaemon, "dest-daemon-host", "", "that of docker-daemon: destinations, a `host` (default $DOCKER_HOST)")
	f.StringVar(&o.sourceBlobs, "src-shared-blob-dir", "", "the `folder` that oci: sources have their blobs in")
	f.StringVar(&o.destinationBlobs, "dest-shared-blob-dir", "", "the `folder` that oci: destinations have their blobs in")
	f.StringVar(&o.tempDir, "tmpdir", "", "keep in this `folder` what has to lie somewhere on its way (default $TMPDIR or /var/tmp)")
}

func (o *copyFlags) addPlatform(s string) error {
	p, err := image.ParsePlatform(s)
	o.platforms = append(o.platforms, p)
	return err
}

// options are what the engine is asked for.
func (o *copyFlags) options(to image.Ref) (copy.Options, error) {
	options := copy.Options{
		Format: o.formatAt(to), EncryptLayers: o.encrypt, PreserveDigests: o.preserve, Platforms: o.platforms, TempDir: o.tempDir,
	}
	var err error
	if options.Parts, err = o.parts(); err != nil {
		return options, usageError{err}
	}
	if options.Compression, err = o.compression(); err != nil {
		return options, usageError{err}
	}
	if err := o.keys(&options); err != nil {
		return options, fmt.Errorf("keys: %w", err)
	}
	if err := options.Check(); err != nil {
		return options, usageError{err}
	}
	return options, nil
}

// formatAt is what the manifest is converted to. A layout can hold Docker's manifests, but skopeo, podman and umoci don't find them there.
func (o *copyFlags) formatAt(to image.Ref) copy.Format {
	if o.format == "" && !o.preserve && (to.Transport == image.OCI || to.Transport == image.OCIArchive) {
		return copy.OCI
	}
	return copy.Format(o.format)
}

// parts is how much of a multi-platform image is copied.
func (o *copyFlags) parts() (copy.Parts, error) {
	switch {
	case o.all && o.multiArch != "" && o.multiArch != "all":
		return "", fmt.Errorf("--all and --multi-arch %s contradict each other", o.multiArch)
	case (o.all || o.multiArch == "all" || o.multiArch == "index-only") && len(o.platforms) > 0:
		return "", errors.New("--platform leaves platforms out: it does not go with all of them, nor with none")
	case o.multiArch == "index-only":
		return copy.IndexOnly, nil
	case o.multiArch == "system":
		return copy.System, nil
	case o.all || o.multiArch == "all":
		return copy.All, nil
	case o.multiArch != "":
		return "", fmt.Errorf("--multi-arch %q is none of all, system and index-only", o.multiArch)
	case len(o.platforms) > 0:
		return copy.Listed, nil
	}
	return copy.Fitting, nil
}

func (o *copyFlags) compression() (copy.Compression, error) {
	leveled := o.flags.Changed("dest-compress-level")
	c := copy.Compression{To: copy.Algorithm(o.compress), Force: o.force && leveled}
	if o.decompress {
		if o.compress != "" {
			return c, errors.New("--dest-decompress and --dest-compress-format contradict each other")
		}
		c.To = copy.Uncompressed
	}
	if leveled {
		if o.compress == "" {
			return c, errors.New("a --dest-compress-level needs a --dest-compress-format")
		}
		c.Level = &o.level
	}
	if o.force && o.compress == "" {
		return c, errors.New("--dest-force-compress-format needs a --dest-compress-format")
	}
	return c, nil
}

// keys reads the keys to encrypt for and to decrypt with.
func (o *copyFlags) keys(options *copy.Options) error {
	if len(o.encryptFor) > 0 {
		c, err := helpers.CreateCryptoConfig(o.encryptFor, nil)
		if err != nil {
			return err
		}
		options.Encrypt = c.EncryptConfig
	} else if len(o.encrypt) > 0 {
		return usageError{errors.New("--encrypt-layer needs an --encryption-key")}
	}
	if len(o.decryptKeys) == 0 {
		return nil
	}
	c, err := helpers.CreateDecryptCryptoConfig(o.decryptKeys, nil)
	if err != nil {
		return err
	}
	options.Decrypt = encryption.CombineCryptoConfigs([]encryption.CryptoConfig{c}).DecryptConfig
	return nil
}

// names are the tags to put an image under at r: its own, and those that were asked for beside.
func (o *copyFlags) names(r image.Ref) ([]string, error) {
	all := tags(r)
	for _, text := range o.extraTags {
		tag := text
		if strings.ContainsAny(text, "/:") {
			more, err := image.ParseRef("docker://" + text)
			if err != nil {
				return nil, usageError{err}
			}
			if more.Repository != r.Repository {
				return nil, usageError{fmt.Errorf("--additional-tag %s is of another repository than %s", text, r)}
			}
			tag = more.Tag
		}
		all = append(all, tag)
	}
	return all, nil
}
