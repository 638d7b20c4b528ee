//go:build !linux

package registries

import "os/exec"

func startWithParent(cmd *exec.Cmd) error { return cmd.Start() }

func detach(string) {}
