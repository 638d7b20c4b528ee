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
	os.Exit(m.Run())
}
