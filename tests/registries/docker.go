package registries

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// startTimeout is how long a registry may take until it answers, on a machine that is busy with other tests too.
const startTimeout = 30 * time.Second

// identity is the header by which a Docker registry is known to be the one just started, and not another's on its port.
const identity = "X-Regfs-Test"

// Docker starts docker-registry 2.8, as Debian has it, as a process of its own. Without the program the test is skipped, and
// on CI (the environment variable of that name) fails.
func Docker(t TB, c Config) *Registry {
	t.Helper()
	program := Program(t, "docker-registry")
	c, ca := prepare(t, c)
	conf := settings(t, c, ca)
	conf["compatibility"] = object{"schema1": object{"enabled": c.Schema1}}
	for range 5 {
		if r := startDocker(t, program, conf, ca); r != nil {
			r.Auth, r.Storage = c.Auth, c.Storage
			return r
		}
	}
	t.Fatalf("docker-registry: five free ports were all taken by others before it could listen")
	return nil
}

// Program finds a program from Debian. Without it the test is skipped, and on CI fails.
func Program(t TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed: make test-deps installs it", name)
	default:
		t.Skipf("%s is not installed: make test-deps installs it", name)
	}
	return path
}

// startDocker starts the registry on a port that was free a moment ago, and returns nil if it lost that port to another.
func startDocker(t TB, program string, conf object, ca *CA) *Registry {
	t.Helper()
	id, r := rand.Text(), &Registry{Host: freePort(t), CA: ca}
	listen := object{"addr": r.Host, "secret": id, "headers": object{identity: []string{id}}}
	if ca != nil {
		cert, key := ca.files(t)
		listen["tls"] = object{"certificate": cert, "key": key}
	}
	conf["http"] = listen
	path := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, path, marshal(t, conf))

	p := startProcess(t, exec.Command(program, "serve", path))
	r.PID = p.cmd.Process.Pid
	if r.answers(t, id, p.exited) {
		return r
	}
	if !bytes.Contains(p.output.Bytes(), []byte("address already in use")) {
		t.Fatalf("docker-registry did not start:\n%s", p.output.Bytes())
	}
	return nil
}

// answers waits until the registry does, false if its process ends or takes too long.
func (r *Registry) answers(t TB, id string, exited <-chan struct{}) bool {
	t.Helper()
	client := &http.Client{Transport: r.Transport(t), Timeout: time.Second}
	deadline := time.After(startTimeout)
	for {
		if resp, err := client.Get(r.Scheme() + "://" + r.Host + "/v2/"); err == nil {
			resp.Body.Close()
			if resp.Header.Get(identity) == id {
				return true
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-exited:
			return false
		case <-deadline:
			return false
		}
	}
}

func freePort(t TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer l.Close()
	return l.Addr().String()
}

// process is a child that ends with the test.
type process struct {
	cmd    *exec.Cmd
	output *buffer
	exited chan struct{}
}

func startProcess(t TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, output: &buffer{}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	if err := startWithParent(cmd); err != nil {
		t.Fatalf("%v", err)
	}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.exited
	})
	return p
}

// buffer is a bytes.Buffer that a process writes while a test reads. It keeps the first 64 KiB.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() < 64<<10 {
		b.buf.Write(p)
	}
	return len(p), nil
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
