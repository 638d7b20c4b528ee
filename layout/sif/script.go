package sif

import (
	"fmt"
	"strings"

	"github.com/regfs/regfs/image"
)

// scriptName is where the script of a definition file goes, in the layer.
const scriptName = "podman/runscript"

// maxDefinition is the longest definition file that is read, in bytes.
const maxDefinition = 1 << 20

// script is what the image runs, or nil where its definition says nothing of that.
func (s *sif) script() ([]byte, error) {
	if s.definition == nil {
		return nil, nil
	}
	if s.definition.size > maxDefinition {
		return nil, fmt.Errorf("its definition file has %d bytes, more than %d: %w", s.definition.size, maxDefinition, image.ErrInvalid)
	}
	raw := make([]byte, s.definition.size)
	if _, err := s.file.ReadAt(raw, s.definition.off); err != nil && len(raw) > 0 {
		return nil, fmt.Errorf("read its definition file: %w", ended(err))
	}
	return scriptOf(string(raw)), nil
}

// scriptOf is the script of a definition file: its environment, and then what it says to run, line for line. Where a section is there
// more than once all of it counts.
func scriptOf(definition string) []byte {
	sections := map[string][]string{}
	section := ""
	for line := range strings.Lines(definition) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "%"):
			section = line
		case section == "%runscript", section == "%environment" && line != "" && line[0] != '#':
			sections[section] = append(sections[section], line)
		}
	}
	environment, run := sections["%environment"], sections["%runscript"]
	if len(environment)+len(run) == 0 {
		return nil
	}
	return []byte("#!/bin/bash\n" + strings.Join(environment, "\n") + "\n" + strings.Join(run, "\n") + "\n")
}
