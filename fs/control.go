package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/regfs/regfs/image"
)

// controlName is the folder of the daemon's own files.
const controlName = ".regfs"

// control is the folder of files that tell of the daemon.
func (t *Tree) control() Node {
	return t.folder(controlName, free(func() []child {
		all := []child{t.controlFile("errors.log", t.log.bytes)}
		p := t.pushes("")
		all = append(all, child{name: pushesName, ino: p.attr.Ino, dir: true, node: func(context.Context) (Node, error) { return p, nil }})
		for name, content := range t.o.Control {
			all = append(all, t.controlFile(name, content))
		}
		return all
	}))
}

func (t *Tree) controlFile(name string, content func() []byte) child {
	f := &made{ino: t.ino(controlName, name), content: func(context.Context) ([]byte, error) { return content(), nil }}
	return child{name: name, ino: f.ino, node: func(context.Context) (Node, error) { return f, nil }}
}

// Report writes down why an operation on a path failed, as one line of .regfs/errors.log.
func (t *Tree) Report(operation, path string, err error) { t.log.add(operation, path, err) }

// ReportLayer writes down what is wrong with a layer, once for each problem. It tells whether it is the first time.
func (t *Tree) ReportLayer(d image.Descriptor, problem string) (first bool) {
	key := d.Digest.String() + "\x00" + oneLine(problem)
	if _, told := t.flaws.peek(key); told {
		return false
	}
	t.flaws.put(key, struct{}{}, 2*len(key)+childCost)
	t.log.add("layer", d.Digest.String(), errors.New(problem))
	return true
}

// maxErrors is how many lines .regfs/errors.log has at the most. The daemon's own log has all.
const maxErrors = 1000

// errorLog is the last lines of what went wrong.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *errorLog) add(operation, path string, err error) {
	line := fmt.Sprintf("%s %s %s: %s\n", time.Now().Format(time.RFC3339), operation, oneLine(path), oneLine(err.Error()))
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= 2*maxErrors {
		l.lines = append([]string(nil), l.lines[maxErrors:]...)
	}
	l.lines = append(l.lines, line)
}

func (l *errorLog) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []byte(strings.Join(l.lines[max(0, len(l.lines)-maxErrors):], ""))
}

// oneLine makes what others wrote safe to stand in a line of a log, and not too long for one.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 2000)]
}
