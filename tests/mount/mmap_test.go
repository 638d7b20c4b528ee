//go:build linux

package mount_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"golang.org/x/sys/unix"

	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// Set to a path, these make this program one that maps the file there and prints its digest, or lists the folder there and prints
// how many entries it has.
const (
	mapped = "REGFS_TEST_MAPPED"
	listed = "REGFS_TEST_LISTED"
)

func TestMain(m *testing.M) {
	for variable, fn := range map[string]func(string) error{mapped: printMapped, listed: printListed} {
		path := os.Getenv(variable)
		if path == "" {
			continue
		}
		if err := fn(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// printListed lists in a thread that is sent a signal every few milliseconds, so that each of its waits is interrupted.
func printListed(path string) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
	runtime.LockOSThread()
	tid := unix.Gettid()
	go func() {
		for range time.Tick(3 * time.Millisecond) {
			unix.Tgkill(os.Getpid(), tid, syscall.SIGUSR1)
		}
	}()
	entries, err := os.ReadDir(path)
	fmt.Println(len(entries))
	return err
}

func printMapped(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	fmt.Printf("sha256:%x\n", sha256.Sum256(b))
	return nil
}

// TestMapped maps a blob that nobody has read yet, and once more when it is cached.
func TestMapped(t *testing.T) {
	r := registries.Memory(t)
	img, err := random.Image(3<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.PushImage(t, "team/app:v1", img)
	m := mounted.New(t, mounted.Options{})
	want := read(t, m, r.Host, "team/app/tags/v1/layers/00/digest")
	for _, when := range []string{"on its way", "cached"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), mapped+"="+m.At(r.Host, "team/app/tags/v1/layers/00/blob"))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != strings.TrimSpace(want) {
			t.Errorf("%s: %v, %s, not %s", when, err, out, want)
		}
	}
}
