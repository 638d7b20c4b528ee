package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/regfs/regfs/layout/storage"
)

// asRegfs makes the test binary be regfs, so that tests can start it, and it itself.
const asRegfs = "REGFS_TEST_AS_REGFS"

func TestMain(m *testing.M) {
	if storage.Init() {
		return
	}
	// Under the race detector a process, such as those that unpack layers, would stay a second after its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	if os.Getenv(asRegfs) != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestCommandLine(t *testing.T) {
	for _, test := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"", 0, "regfs umount /mnt/reg", ""},
		{"--help", 0, "Available Commands:", ""},
		{"mount --help", 0, "--tag-ttl", ""},
		{"version", 0, "regfs ", ""},
		{"--version", 0, "regfs ", ""},
		{"browse", 2, "", "regfs: \"browse\" is not a command\nTry 'regfs --help'.\n"},
		{"version now", 2, "", "regfs: \"now\" is not a command\nTry 'regfs version --help'.\n"},
		{"mount", 2, "", "regfs: which folder? A mountpoint is missing\nTry 'regfs mount --help'.\n"},
		{"umount a b", 2, "", "regfs: one mountpoint at a time: what is \"b\"?\nTry 'regfs umount --help'.\n"},
		{"mount --loud /", 2, "", "regfs: unknown flag: --loud\nTry 'regfs mount --help'.\n"},
		{"mount --timeout 0 .", 2, "", "regfs: a --timeout of 0s leaves no time for anything\nTry 'regfs mount --help'.\n"},
		{"copy --help", 0, "docker://HOST/REPOSITORY", ""},
		{"copy", 2, "", "regfs: what, and where to? SOURCE and DESTINATION are missing\nTry 'regfs copy --help'.\n"},
		{"copy oci:a", 2, "", "regfs: where to? DESTINATION is missing\nTry 'regfs copy --help'.\n"},
		{"copy oci:a oci:b oci:c", 2, "", "regfs: one image at a time: what is \"oci:c\"?\nTry 'regfs copy --help'.\n"},
		{"copy --timeout 0 oci:a oci:b", 2, "", "regfs: a --timeout of 0s leaves no time for anything\nTry 'regfs copy --help'.\n"},
		{"cache --help", 0, "regfs cache prune --older-than 30d", ""},
		{"cache clear", 2, "", "regfs: \"clear\" is not a command\nTry 'regfs cache --help'.\n"},
		{"cache prune", 2, "", "regfs: what? Say --older-than, --size or --all\nTry 'regfs cache prune --help'.\n"},
		{"cache prune --all --size 1G", 2, "", "regfs: --all is all: leave the other flags away\nTry 'regfs cache prune --help'.\n"},
		{"cache prune --older-than 0", 2, "", "regfs: invalid argument \"0\" for \"--older-than\" flag: \"0\" is not a time, such as 12h or 30d\nTry 'regfs cache prune --help'.\n"},
		{"index --help", 0, "--all-platforms", ""},
		{"index", 2, "", "regfs: what? An IMAGE such as docker://HOST/REPOSITORY:TAG is missing\nTry 'regfs index --help'.\n"},
		{"index --timeout 0 oci:a", 2, "", "regfs: a --timeout of 0s leaves no time for anything\nTry 'regfs index --help'.\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || stderr.String() != test.stderr {
			t.Errorf("regfs %s: exit %d\n%s\n%s", test.args, code, &stdout, &stderr)
		}
	}
}
