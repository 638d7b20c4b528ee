package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/image"
)

// sources are what a mount shows: top at its top, and the others in folders of their names with "@" before them. The zero value is
// all registries.
type sources struct {
	top   image.Ref // none stands for docker://
	named map[string]image.Ref
}

// sourceName is what a source may be called.
var sourceName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63}$`)

// sourcesAndMountpoint accepts any number of sources and a mountpoint.
func sourcesAndMountpoint(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return oneMountpoint(cmd, args)
	}
	last := len(args) - 1
	if _, err := parseSources(args[:last]); err != nil {
		return usageError{err}
	}
	return oneMountpoint(cmd, args[last:])
}

// parseSources reads [NAME=]SOURCE…. Without one that has no name, the registries are at the top.
func parseSources(args []string) (sources, error) {
	s := sources{named: map[string]image.Ref{}}
	for _, arg := range args {
		if err := s.add(arg); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *sources) add(arg string) error {
	name, text, named := strings.Cut(arg, "=")
	if !named || !sourceName.MatchString(name) {
		name, text = "", arg
	}
	r, err := image.ParsePlace(text)
	if err != nil {
		return err
	}
	switch _, taken := s.named[name]; {
	case name == "" && s.top.Transport != "":
		return fmt.Errorf("only one source can be at the top: give %s a name, NAME=%s", text, text)
	case name == "":
		s.top = r
	case r.Transport == image.Registry:
		return errors.New("registries have names already: write docker:// without one")
	case taken:
		return fmt.Errorf("two sources are called %s", name)
	default:
		s.named[name] = r
	}
	return nil
}

// registries tells that registries stand at the top.
func (s *sources) registries() bool {
	return s.top.Transport == "" || s.top.Transport == image.Registry
}

// absolute makes all paths absolute, because the daemon runs in another folder.
func (s *sources) absolute() error {
	var err error
	if s.top, err = absolute(s.top); err != nil {
		return err
	}
	for name, r := range s.named {
		if s.named[name], err = absolute(r); err != nil {
			return err
		}
	}
	return nil
}

func absolute(r image.Ref) (image.Ref, error) {
	switch r.Transport {
	case "", image.Registry, image.DockerDaemon, image.ContainersStorage:
		return r, nil
	case image.Tarball:
		var all []string
		for file := range strings.SplitSeq(r.Path, ":") {
			path, err := filepath.Abs(file)
			if err != nil {
				return r, err
			}
			all = append(all, path)
		}
		r.Path = strings.Join(all, ":")
		return r, nil
	}
	path, err := filepath.Abs(r.Path)
	r.Path = path
	return r, err
}

// describe is the sources as they are written on the command line.
func (s *sources) describe() []string {
	all := []string{"docker://"}
	if !s.registries() {
		all[0] = s.top.Place()
	}
	for name, r := range s.named {
		all = append(all, name+"="+r.Place())
	}
	return all
}
