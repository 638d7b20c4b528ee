package registries

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long an engine may take to end by itself, with its containers.
const stopTimeout = 15 * time.Second

// Engine is a running Docker engine with no image in it, and with no network.
type Engine struct {
	// Host is where it listens, as DOCKER_HOST has it: unix:///….
	Host   string
	client string
}

// DockerEngine starts dockerd, as Debian has it in docker.io, as a process of its own. That takes root: without it, or without the
// program, the test is skipped, and on CI fails.
func DockerEngine(t TB) *Engine {
	t.Helper()
	program, client := Program(t, "dockerd"), Program(t, "docker")
	if debian := "/usr/bin/docker"; runs(debian) {
		client = debian // the one that belongs to dockerd
	}
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatalf("only root can run a Docker engine")
	default:
		t.Skipf("only root can run a Docker engine")
	}
	dir := engineFolder(t)
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.Command(program, "--config-file", filepath.Join(dir, "none.json"), "--host", "unix://"+socket, "--pidfile", filepath.Join(dir, "pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--storage-driver", "vfs",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false")
	writeFile(t, filepath.Join(dir, "none.json"), []byte("{}"))
	p := startProcess(t, cmd)
	t.Cleanup(func() { end(p) })
	e := &Engine{Host: "unix://" + socket, client: client}
	e.await(t, socket, p)
	return e
}

func runs(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// engineFolder is a folder with a short name, for a socket, that is empty of mounts in the end.
func engineFolder(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		unmountBelow(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("%v", err)
		}
	})
	return dir
}

// await waits until the engine answers.
func (e *Engine) await(t TB, socket string, p *process) {
	t.Helper()
	deadline := time.After(startTimeout)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			e.Docker(t, "version") // which waits for the rest
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.exited:
			t.Fatalf("dockerd did not start:\n%s", p.output.Bytes())
		case <-deadline:
			t.Fatalf("dockerd does not answer:\n%s", p.output.Bytes())
		}
	}
}

// Docker runs the engine's own client, and returns what it printed.
func (e *Engine) Docker(t TB, arg ...string) string {
	t.Helper()
	cmd := exec.Command(e.client, arg...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host, "DOCKER_TLS_VERIFY=", "DOCKER_CERT_PATH=", "DOCKER_CONTEXT=", "DOCKER_BUILDKIT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(arg, " "), err, out)
	}
	return string(out)
}

// end lets the engine end, and with it its containers and containerd.
func end(p *process) {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopTimeout): // the next cleanup kills it, and the kernel then kills containerd
	}
}

// unmountBelow detaches what is mounted in a folder, deepest first.
func unmountBelow(dir string) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return // where there is none, nothing was mounted
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	for _, point := range slices.Backward(points) {
		detach(point)
	}
}
