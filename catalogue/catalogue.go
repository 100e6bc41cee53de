package catalogue

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vektah/gqlparser/v2"
	gql "github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/models"
)

// maxNameLength bounds the name of an event type.
const maxNameLength = 100

// Catalogue is an immutable snapshot of the event types. It is safe for concurrent use.
type Catalogue struct {
	types        map[string]*entry
	names        []string // sorted
	graphqlNames map[string]string
	derived      *sdl
	sdl          func() string
	graphql      func() (*gql.Schema, error)
	filters      *filterCache // shared by the snapshots that come from one another
	shapes       cache[string, *compiledShape]
}

// entry is an event type with what is derived from it.
type entry struct {
	models.EventType
	schema      *schema // nil without one, and where the stored one cannot be compiled
	form        *form   // of data; nil where it is not known
	graphqlType string
}

// New makes the snapshot of these event types and of the notices, which need not be among them.
// A name that comes twice is an error. A type whose stored schema cannot be compiled is kept: its
// data is then of unknown form, and nothing is checked against it.
func New(types []models.EventType) (*Catalogue, error) {
	return build(types, nil)
}

// With makes the snapshot of other event types, like New, and keeps what was compiled against
// those that stay the same. The receiver does not change.
func (c *Catalogue) With(types []models.EventType) (*Catalogue, error) {
	return build(types, c)
}

func build(types []models.EventType, old *Catalogue) (*Catalogue, error) {
	c := &Catalogue{types: make(map[string]*entry, len(types)+2), graphqlNames: make(map[string]string, len(types)+2)}
	for _, t := range append(Notices(), types...) {
		if known, ok := c.types[t.Name]; ok {
			// Stored rows may repeat the notices; the built-in definition stays.
			if strings.HasPrefix(t.Name, noticePrefix) && known.Builtin {
				continue
			}
			return nil, fmt.Errorf("event type %s comes twice", quote(t.Name))
		}
		c.types[t.Name] = newEntry(t, old)
	}
	c.names = slices.Sorted(maps.Keys(c.types))
	entries := make([]*entry, len(c.names))
	for i, name := range c.names {
		entries[i] = c.types[name]
	}
	c.derived = deriveSDL(entries)
	for _, e := range entries {
		c.graphqlNames[e.Name] = e.graphqlType
	}
	c.sdl = sync.OnceValue(c.derived.text)
	c.graphql = sync.OnceValues(func() (*gql.Schema, error) {
		return gqlparser.LoadSchema(&gql.Source{Name: "catalogue", Input: c.sdl()})
	})
	if c.filters = newFilterCache(); old != nil {
		c.filters = old.filters
	}
	return c, nil
}

// newEntry compiles the type's schema, or takes it from old where it is the same.
func newEntry(t models.EventType, old *Catalogue) *entry {
	e := &entry{EventType: t}
	if t.Schema == nil {
		return e
	}
	if old != nil {
		if known, ok := old.types[t.Name]; ok && known.schema != nil && known.schema.text == *t.Schema {
			e.schema, e.form = known.schema, known.form
			return e
		}
	}
	compiled, problems := compileSchema(*t.Schema)
	if len(problems) == 0 {
		e.schema, e.form = compiled, formOf(compiled.compiled, compiled.text)
	}
	return e
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

// SDL gives the GraphQL schema that payload queries are checked against, as text.
func (c *Catalogue) SDL() string { return c.sdl() }

// GraphQLType gives the name of an event type's type in SDL, "" where there is no such event type.
func (c *Catalogue) GraphQLType(name string) string { return c.graphqlNames[name] }

// graphqlOwner gives the event type that has a GraphQL name, "" where none has.
func (c *Catalogue) graphqlOwner(graphqlType string) string {
	for _, name := range c.names {
		if c.graphqlNames[name] == graphqlType {
			return name
		}
	}
	return ""
}
