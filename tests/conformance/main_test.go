package conformance_test

import (
	"os"
	"testing"

	"github.com/regfs/regfs/layout/storage"
)

// TestMain lets a containers-storage start this program for the unpacking of layers.
func TestMain(m *testing.M) {
	if storage.Init() {
		return
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // each of these processes would sleep for a second at its end
	os.Exit(m.Run())
}
