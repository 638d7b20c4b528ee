package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// daemonVariable tells a process that it is the daemon, and has its starter at the file descriptor starterFD.
const (
	daemonVariable = "_REGFS_DAEMON"
	starterFD      = 3
)

// isReady is what the daemon tells its starter when the mount answers. Anything else is the reason why it does not.
const isReady = "ready\n"

// startDaemon runs this program once more, in a session of its own and with the log file as its output, and returns when it
// is ready or has failed.
func startDaemon(c *config) error {
	log, err := openLog(c.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = execDaemon(log, w)
	w.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	answer, _ := io.ReadAll(r) // what can't be read was not said
	switch text := strings.TrimSpace(string(answer)); {
	case string(answer) == isReady:
		return nil
	case text != "":
		return errors.New(text)
	}
	return fmt.Errorf("the daemon ended before it was ready: its last words are in %s", c.logFile)
}

func execDaemon(log, starter *os.File) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), daemonVariable+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{starter} // starterFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// openLog opens a log to append to: several daemons may, and whoever truncates it loses nothing that comes after.
func openLog(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log file: %w: choose another with --log-file", err)
	}
	return f, nil
}

// starter is the process that waits for a daemon to be ready. Its zero value is nobody, to whom one can talk all the same.
type starter struct{ pipe *os.File }

// connectStarter finds the starter of this process, if it has one. What this process starts itself has none.
func connectStarter() *starter {
	if os.Getenv(daemonVariable) == "" {
		return &starter{}
	}
	os.Unsetenv(daemonVariable)
	syscall.CloseOnExec(starterFD)
	return &starter{os.NewFile(starterFD, "starter")}
}

func (s *starter) connected() bool { return s.pipe != nil }

// ready says that the mount answers. An error means that nobody waits for it any more.
func (s *starter) ready() error {
	if s.pipe == nil {
		return nil
	}
	_, err := io.WriteString(s.pipe, isReady)
	return errors.Join(err, s.pipe.Close())
}

// failed says why there is no mount, unless err is nil or it was ready before.
func (s *starter) failed(err error) {
	if s.pipe != nil && err != nil {
		fmt.Fprintln(s.pipe, err)
		s.pipe.Close()
	}
}
