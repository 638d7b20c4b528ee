package storage

import (
	"os"
	"testing"
)

// helper names what this program is to do when a test starts it once more.
const helper = "REGFS_TEST_HELPER"

// helpers are what it can do then.
var helpers = map[string]func(arg ...string){}

func TestMain(m *testing.M) {
	if Init() {
		return
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // each process that unpacks a layer would sleep for a second at its end
	if help := helpers[os.Getenv(helper)]; help != nil {
		help(os.Args[1:]...)
		return
	}
	os.Exit(m.Run())
}
