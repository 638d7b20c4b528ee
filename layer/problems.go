package layer

import (
	"fmt"
	"slices"
)

// maxProblems is how many of a layer's problems are kept by name.
const maxProblems = 100

// problems are entries of an archive that can't be shown.
type problems struct {
	texts []string
	more  int
}

func (p *problems) add(path string, err error) {
	if len(p.texts) == maxProblems {
		p.more++
		return
	}
	const enough = 200
	if len(path) > enough {
		path = path[:enough] + "…"
	}
	p.texts = append(p.texts, fmt.Sprintf("%q is left out: %v", path, err))
}

// clone is a copy.
func (p *problems) clone() problems { return problems{slices.Clone(p.texts), p.more} }

// all are the texts, and how many more there are.
func (p *problems) all() []string {
	if p.more == 0 {
		return p.texts
	}
	return append(p.texts[:len(p.texts):len(p.texts)], fmt.Sprintf("%d more are left out", p.more))
}
