package copy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/regfs/regfs/image"
)

// object is a JSON object that can be changed in places: the others stay as they are, and in their order.
type object []member

type member struct {
	name string
	raw  json.RawMessage
}

// maxMembers is how many members an object may have that is changed. Manifests and descriptors have a dozen.
const maxMembers = 1000

// ours are the members that are read by a struct's fields elsewhere, in any case and the last one winning. Here, where one is
// replaced, there must be no doubt which one counts.
var ours = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest", "size", "urls", "data", "platform",
}

// parseObject reads an object. ErrInvalid for what is none, or says something twice.
func parseObject(raw []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object: %w", image.ErrInvalid)
	}
	var o object
	for dec.More() {
		m, err := nextMember(dec)
		if err != nil {
			return nil, fmt.Errorf("JSON object: %v: %w", err, image.ErrInvalid)
		}
		if o = append(o, m); len(o) > maxMembers {
			return nil, fmt.Errorf("JSON object of more than %d members: %w", maxMembers, image.ErrInvalid)
		}
	}
	return o, o.check()
}

func nextMember(dec *json.Decoder) (member, error) {
	name, err := dec.Token()
	if err != nil {
		return member{}, err
	}
	var raw json.RawMessage
	err = dec.Decode(&raw)
	return member{name.(string), raw}, err
}

func (o object) check() error {
	for _, name := range ours {
		n := 0
		for _, m := range o {
			if strings.EqualFold(m.name, name) {
				n++
			}
			if strings.EqualFold(m.name, name) && (m.name != name || n > 1) {
				return fmt.Errorf("%q is in doubt: it stands there twice, or in other letters: %w", name, image.ErrInvalid)
			}
		}
	}
	return nil
}

// get is a member's value, or nil where there is none.
func (o object) get(name string) json.RawMessage {
	for _, m := range o {
		if m.name == name {
			return m.raw
		}
	}
	return nil
}

// set gives a member a value, in its place or at the end.
func (o *object) set(name string, value any) {
	raw := encode(value)
	for i, m := range *o {
		if m.name == name {
			(*o)[i].raw = raw
			return
		}
	}
	*o = append(*o, member{name, raw})
}

// drop removes a member, if there is one.
func (o *object) drop(name string) {
	kept := (*o)[:0:0]
	for _, m := range *o {
		if m.name != name {
			kept = append(kept, m)
		}
	}
	*o = kept
}

// bytes is the object as JSON without blanks.
func (o object) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(m.name))
		b.WriteByte(':')
		b.Write(m.raw)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Compact(&out, b.Bytes()); err != nil {
		panic(err) // it is made of what was read and of what encode made
	}
	return out.Bytes()
}

// encode is the JSON of a value that has one.
func encode(value any) []byte {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return raw
}
