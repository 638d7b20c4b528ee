//go:build !linux

package main

import (
	"errors"
	"path/filepath"
	"runtime"
)

var errNoMounts = errors.New("mounting is not supported on " + runtime.GOOS)

func resolve(path string) (string, error) { return filepath.Abs(path) }

func prepare(*config) error { return errNoMounts }

func serve(*config, *starter) error { return errNoMounts }

func umount(string) error { return errNoMounts }

func allMounts() ([]string, error) { return nil, errNoMounts }
