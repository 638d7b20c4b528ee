package registries

import (
	"os/exec"
	"syscall"
)

// startWithParent starts cmd so that it ends when this process is killed, which no Cleanup can see to. The kernel ties that
// to the thread that started it, and Go ends no thread that nobody locked.
func startWithParent(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}

// detach unmounts what is mounted there, now or when it is not busy any more.
func detach(point string) { syscall.Unmount(point, syscall.MNT_DETACH) }
