package layer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// gz compresses each part as a gzip member.
func gz(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed) // one for all, and a fast one: the race detector makes it dear
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, p := range parts {
		w.Reset(&b)
		_, err := w.Write(p)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return b.Bytes()
}

// zs compresses each part as a zstd frame.
func zs(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, p := range parts {
		w.Reset(&b)
		_, err := w.Write(p)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return b.Bytes()
}

// chunks cuts b into parts of n bytes and a rest.
func chunks(b []byte, n int) (all [][]byte) {
	for len(b) > n {
		all, b = append(all, b[:n]), b[n:]
	}
	return append(all, b)
}

// realTar is a tar archive of real files.
func realTar(t testing.TB) []byte {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("%v", err)
	}
	out, err := exec.CommandContext(t.Context(), "tar", "-C", strings.TrimSpace(string(root))+"/src", "-c", "testing", "text", "unicode").Output()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}
