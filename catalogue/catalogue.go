package catalogue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/intervengine/webhooks/models"
)

// maxNameLength bounds the name of an event type.
const maxNameLength = 100

// Catalogue is an immutable snapshot of the event types. It is safe for concurrent use.
type Catalogue struct {
	types map[string]*entry
	names []string // sorted
}

// entry is an event type with what is derived from it.
type entry struct {
	models.EventType
}

// New makes the snapshot of these event types and of the notices, which need not be among them.
// A name that comes twice is an error. A type whose stored schema cannot be compiled is kept: its
// data is then of unknown form, and nothing is checked against it.
func New(types []models.EventType) (*Catalogue, error) {
	c := &Catalogue{types: make(map[string]*entry, len(types)+2)}
	for _, t := range append(Notices(), types...) {
		if old, ok := c.types[t.Name]; ok {
			// Stored rows may repeat the notices; the built-in definition stays.
			if strings.HasPrefix(t.Name, noticePrefix) && old.Builtin {
				continue
			}
			return nil, fmt.Errorf("event type %s comes twice", quote(t.Name))
		}
		c.types[t.Name] = &entry{EventType: t}
		c.names = append(c.names, t.Name)
	}
	slices.Sort(c.names)
	return c, nil
}

// Type gives the event type with this name.
func (c *Catalogue) Type(name string) (models.EventType, bool) {
	e, ok := c.types[name]
	if !ok {
		return models.EventType{}, false
	}
	return e.EventType, true
}

// Types gives all event types by name, the notices among them.
func (c *Catalogue) Types() []models.EventType {
	types := make([]models.EventType, len(c.names))
	for i, name := range c.names {
		types[i] = c.types[name].EventType
	}
	return types
}
