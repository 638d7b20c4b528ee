package registries_test

import (
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/regfs/regfs/tests/registries"
)

func TestMainCleansUp(t *testing.T) {
	ends := map[string]struct {
		end  func(registries.TB)
		code int
	}{
		"return": {func(registries.TB) {}, 0},
		"fatal":  {func(t registries.TB) { t.Fatalf("on purpose") }, 1},
		"signal": {func(t registries.TB) {
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				t.Fatalf("%v", err)
			}
			<-t.Context().Done()
		}, 0},
	}
	for what, test := range ends {
		var dir, host string
		code := registries.Main(func(t registries.TB) {
			dir, host = t.TempDir(), registries.Memory(t).Host
			test.end(t)
		})
		if code != test.code {
			t.Errorf("%s: exit code %d, want %d", what, code, test.code)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the temporary folder is left: %v", what, err)
		}
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			resp.Body.Close()
			t.Errorf("%s: the registry still answers", what)
		}
	}
}
