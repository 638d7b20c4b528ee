//go:build linux

package mount_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/regfs/regfs/fs/stage"
	"github.com/regfs/regfs/tests/mounted"
	"github.com/regfs/regfs/tests/registries"
)

// faulty is a fault in the way of a push.
type faulty struct {
	name  string
	match registries.Match
	fault registries.Fault
	times int
}

// passing are faults that an upload gets over.
func passing(size int64) []faulty {
	var all []faulty
	for tenth := range int64(10) {
		all = append(all, faulty{fmt.Sprintf("cut at %d tenths", tenth), sends, cutAt(size*tenth/10, nil), -1})
	}
	for where, match := range map[string]registries.Match{"POST": posts, "PATCH or PUT": sends, "PUT of the manifest": manifests, "HEAD": heads} {
		all = append(all,
			faulty{where + " 429", match, registries.Status(http.StatusTooManyRequests, "0"), 2},
			faulty{where + " 500", match, registries.Status(http.StatusInternalServerError, ""), 1},
			faulty{where + " 503", match, registries.Status(http.StatusServiceUnavailable, ""), 2},
			faulty{where + " swallowed", match, registries.Swallow, 1})
	}
	for where, match := range map[string]registries.Match{"PATCH": patches, "PUT of a blob": blobPuts, "PUT of the manifest": manifests} {
		all = append(all, faulty{where + " 429 with Retry-After", match, registries.Status(http.StatusTooManyRequests, "1"), 1})
	}
	for where, match := range map[string]registries.Match{"POST": posts, "PATCH": patches, "PUT of a blob": blobPuts, "PUT of the manifest": manifests} {
		all = append(all, faulty{where + " stalls", match, registries.Hang, 1})
	}
	return append(all,
		faulty{"PATCH swallowed", patches, registries.Swallow, 1},
		faulty{"PUT of a blob swallowed", blobPuts, registries.Swallow, 1},
		faulty{"a body stalls", sends, stallAt(size / 2), 1})
}

// TestPassingFaults: what goes wrong once or twice on the way to the registry, wherever, is no failure of cp, and harms no byte.
func TestPassingFaults(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	old, img := newPushed(t, "old", 1<<10), newPushed(t, "passing", 5<<20)
	m := mounted.New(t, mounted.Options{Timeout: 4 * time.Second})
	t.Run("group", func(t *testing.T) {
		for i, f := range passing(img.size(t)) {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				proxy := registries.NewProxy(t, r)
				repository := fmt.Sprintf("passing/r%d", i)
				folder := m.At(proxy.Host, repository, "tags/v1")
				if i%3 == 0 { // over an image that is there
					old.mustPush(t, folder, m.Log)
				}
				proxy.Fault(f.times, f.match, f.fault)
				img.mustPush(t, folder, m.Log)
				wantState(t, m, proxy.Host, repository, "v1", stage.Pushed)
				img.pulls(t, r.Host+"/"+repository+":v1")
			})
		}
	})
}

// says answers with a status and an error of the registry's.
func says(status int, code, message string) registries.Fault {
	return registries.Answer(status, http.Header{"Content-Type": {"application/json"}},
		fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message))
}

// lasting are faults that no patience gets over, the errno that they are, and what is said of them.
var lasting = []struct {
	faulty
	errno syscall.Errno
	words string
}{
	{faulty{"cut", sends, registries.DropRequest(1 << 10), -1}, syscall.EIO, ""},
	{faulty{"cut before the answer", manifests, registries.DropRequest(10), -1}, syscall.EIO, ""},
	{faulty{"500", sends, says(500, "UNKNOWN", "the disk is on fire"), -1}, syscall.EIO, "the disk is on fire"},
	{faulty{"429", posts, says(429, "TOOMANYREQUESTS", "slow down"), -1}, syscall.EIO, "slow down"},
	{faulty{"stall", sends, registries.Hang, -1}, syscall.ETIMEDOUT, "no answer in time"},
	{faulty{"stall of the manifest", manifests, registries.Hang, -1}, syscall.ETIMEDOUT, "no answer in time"},
	{faulty{"401", posts, says(401, "UNAUTHORIZED", "who are you"), -1}, syscall.EACCES, "who are you"},
	{faulty{"403", posts, says(403, "DENIED", "not yours to push"), -1}, syscall.EACCES, "not yours to push"},
	{faulty{"403 for the manifest", manifests, says(403, "DENIED", "this tag is protected"), -1}, syscall.EACCES, "this tag is protected"},
	{faulty{"413", sends, says(413, "UNKNOWN", "layers of up to 1 MB only"), -1}, syscall.EFBIG, "layers of up to 1 MB only"},
	{faulty{"quota", posts, says(403, "DENIED", "the quota of the project is used up"), -1}, syscall.EDQUOT, "quota of the project"},
	{faulty{"400 for the manifest", manifests, says(400, "MANIFEST_INVALID", "no label maintainer"), -1}, syscall.EINVAL, "no label maintainer"},
	{faulty{"404", posts, says(404, "NAME_UNKNOWN", "make the repository first"), -1}, syscall.ENOENT, "make the repository first"},
}

// TestLastingFaults: a push that can't be is cp's failure with the errno of its reason, which can be read in words. What the tag
// named it still names; what was written is still there; and when the reason is gone the same cp does it.
func TestLastingFaults(t *testing.T) {
	r := registries.Docker(t, registries.Config{})
	old, img := newPushed(t, "old", 1<<10), newPushed(t, "lasting", 3<<20)
	m := mounted.New(t, mounted.Options{Timeout: 3 * time.Second})
	t.Run("group", func(t *testing.T) {
		for i, f := range lasting {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				proxy := registries.NewProxy(t, r)
				repository := fmt.Sprintf("lasting/r%d", i)
				folder := m.At(proxy.Host, repository, "tags/v1")
				old.mustPush(t, folder, m.Log)
				proxy.Fault(-1, f.match, f.fault)
				stderr, err := img.cpTo(t, folder)
				saysErrno(t, stderr, err, f.errno)
				wantState(t, m, proxy.Host, repository, "v1", stage.Broken, f.words)
				old.pulls(t, r.Host+"/"+repository+":v1")
				img.isStaged(t, folder)

				proxy.Reset()
				img.mustPush(t, folder, m.Log)
				wantState(t, m, proxy.Host, repository, "v1", stage.Pushed)
				img.pulls(t, r.Host+"/"+repository+":v1")
			})
		}
	})
}

// isStaged checks that what was written can be read where it was written.
func (p *pushed) isStaged(t *testing.T, folder string) {
	t.Helper()
	for _, hex := range []string{p.manifest, p.config, p.layer} {
		if _, err := os.Stat(filepath.Join(folder, "oci-layout/blobs/sha256", hex)); err != nil {
			t.Errorf("it is not there any more: %v", err)
			continue
		}
		if got := sha256Of(t, filepath.Join(folder, "oci-layout/blobs/sha256", hex)); got != "sha256:"+hex {
			t.Errorf("staged %s has the digest %s", hex, got)
		}
	}
}

// TestRefusedThenAnother: who writes another image over one that the registry has refused is told nothing of that.
func TestRefusedThenAnother(t *testing.T) {
	proxy := registries.NewProxy(t, registries.Docker(t, registries.Config{}))
	m := mounted.New(t, mounted.Options{})
	for i, seed := range []string{"a", "b", "c", "d"} { // cp copies in no order of ours
		img, another := newPushed(t, "refused"+seed, 1<<10), newPushed(t, "another"+seed, 1<<10)
		proxy.Reset()
		proxy.Fault(-1, manifests, func(e *registries.Exchange) (*http.Response, error) {
			raw, err := io.ReadAll(e.Request.Body)
			if err != nil {
				return nil, err
			}
			if bytes.Contains(raw, []byte(img.config)) {
				return says(400, "MANIFEST_INVALID", "no label maintainer")(e)
			}
			e.Request.Body = io.NopCloser(bytes.NewReader(raw))
			return e.Send()
		})
		repository := fmt.Sprint("refused/r", i)
		folder := m.At(proxy.Host, repository, "tags/v1")
		stderr, err := img.cpTo(t, folder)
		saysErrno(t, stderr, err, syscall.EINVAL)
		another.mustPush(t, folder, m.Log)
		another.pulls(t, proxy.Host+"/"+repository+":v1")
	}
}
