package catalogue

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

const (
	// wholeField is the one field of a type whose data has no known fields.
	wholeField = "_data"
	// wholeSource stands for data itself among the names in data; no name has a NUL.
	wholeSource = "\x00"
	unionName   = "EventData"
	eventField  = "event"
	// maxDescription bounds a description in the derived schema, in bytes.
	maxDescription = 1_000
)

var graphqlSpelling = regexp.MustCompile(`^[_A-Za-z][_0-9A-Za-z]*$`)

// spellable reports whether GraphQL can have a field of this name. Two underscores in front are
// GraphQL's own.
func spellable(name string) bool {
	return graphqlSpelling.MatchString(name) && !strings.HasPrefix(name, "__")
}

// graphqlName gives the PascalCase of an event type's name: participant.profile_updated is
// ParticipantProfileUpdated.
func graphqlName(eventType string) string {
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(eventType, func(r rune) bool { return r == '.' || r == '_' }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	name := b.String()
	if !spellable(name) {
		return "_" + name
	}
	return name
}

// object is a type of the derived GraphQL schema.
type object struct {
	name        string
	description string
	fields      []objectField
}

// objectField is a field of an object.
type objectField struct {
	name        string // in GraphQL
	typ         string
	description string
}

// sdl is the GraphQL schema derived from a catalogue.
type sdl struct {
	roots   []*object // of the event types, in the order of their names
	nested  []*object
	taken   map[string]bool
	sources map[string]map[string]string // by type and field: the name in data, where it differs
}

// deriveSDL names the type of each event type, and lays out their fields.
//
// Two event types whose names differ in dots and underscores alone would have one GraphQL name;
// CheckType refuses the second. Where a catalogue has both all the same, the later name gets a
// number.
func deriveSDL(entries []*entry) *sdl {
	s := &sdl{taken: map[string]bool{}, sources: map[string]map[string]string{}}
	for _, name := range []string{"Subscription", "Query", "Mutation", unionName, "Number", "JSON", "String", "Boolean", "Int", "Float", "ID"} {
		s.taken[name] = true
	}
	// All event types before all nested objects, so that no field can take an event type's name.
	for _, e := range entries {
		e.graphqlType = s.unique(graphqlName(e.Name))
		s.roots = append(s.roots, &object{name: e.graphqlType, description: rootDescription(e)})
	}
	for i, e := range entries {
		s.fillRoot(s.roots[i], e.form)
	}
	return s
}

func rootDescription(e *entry) string {
	text := e.Title
	if e.Description != nil {
		text += "\n\n" + *e.Description
	}
	return strings.TrimSpace(text) + "\n\nEvent type: " + e.Name + " (" + string(e.Status) + ")"
}

func (s *sdl) unique(name string) string {
	result := name
	for n := 2; s.taken[result]; n++ {
		result = name + "_" + strconv.Itoa(n)
	}
	s.taken[result] = true
	return result
}

// fillRoot gives an event type's object its fields. GraphQL wants an object with at least one
// field there, so names that it cannot spell are spelt differently, and data without known fields
// is one field.
func (s *sdl) fillRoot(o *object, f *form) {
	if f == nil || f.kind != kindObject {
		o.fields = []objectField{{name: wholeField, typ: "JSON", description: "The whole of data, as it came. Its fields are not known."}}
		s.sources[o.name] = map[string]string{wholeField: wholeSource}
		return
	}
	used := map[string]bool{}
	for _, field := range f.fields {
		if spellable(field.name) {
			used[field.name] = true
		}
	}
	for _, field := range f.fields {
		name, description := field.name, field.form.description
		if !spellable(name) {
			name = respell(field.name, used)
			description = strings.TrimSpace(description + "\n\nIn data the name is " + quote(field.name) + ".")
			if s.sources[o.name] == nil {
				s.sources[o.name] = map[string]string{}
			}
			s.sources[o.name][name] = field.name
		}
		o.fields = append(o.fields, objectField{name: name, typ: s.typeOf(o.name+pascal(name), field.form), description: description})
	}
}

// sourceOf gives the name in data of a type's field; whole is true where it is data itself.
func (s *sdl) sourceOf(typ, name string) (source string, whole bool) {
	if source, ok := s.sources[typ][name]; ok {
		return source, source == wholeSource
	}
	return name, false
}

// respell makes a GraphQL name that is not used of one that GraphQL cannot spell.
func respell(name string, used map[string]bool) string {
	spelt := strings.Map(func(r rune) rune {
		if r < 128 && (r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, name)
	spelt = strings.TrimLeft(spelt, "_")
	if spelt == "" || spelt[0] >= '0' && spelt[0] <= '9' {
		spelt = "_" + spelt
	}
	result := spelt
	for n := 2; used[result]; n++ {
		result = spelt + "_" + strconv.Itoa(n)
	}
	used[result] = true
	return result
}

// pascal begins each word of a field's name with a capital.
func pascal(name string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(name, "_") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// typeOf gives the GraphQL type of a value, and lays out the object that it may need under name.
func (s *sdl) typeOf(name string, f *form) string {
	switch f.kind {
	case kindBoolean:
		return "Boolean"
	case kindNumber:
		return "Number"
	case kindString:
		return "String"
	case kindList:
		return "[" + s.typeOf(name, f.item) + "]"
	case kindObject:
		for _, field := range f.fields {
			if !spellable(field.name) { // as a whole it can still be had
				return "JSON"
			}
		}
		o := &object{name: s.unique(name), description: f.description}
		s.nested = append(s.nested, o)
		for _, field := range f.fields {
			o.fields = append(o.fields, objectField{
				name: field.name, typ: s.typeOf(name+pascal(field.name), field.form), description: field.form.description,
			})
		}
		return o.name
	case kindAny:
	}
	return "JSON"
}

const sdlHead = `"""
What a payload query is checked against. It is derived from the event catalogue: one type for each
event type, with the fields that the JSON Schema of its data names.

A payload query is one subscription to event; what it selects becomes the delivered data, in the
order of the selection. Every field may be null: a selected field that the event lacks is null. A
value that is not of the kind that the schema says is delivered as it is.

What GraphQL cannot express is JSON: values of several kinds, objects without known fields, tuples,
and objects with a field that GraphQL cannot spell. At the top of data such a field is spelt with
underscores, and its description has its name.
"""
schema {
  query: Query
  subscription: Subscription
}

"A JSON number with all of its digits, whole or not, of any size."
scalar Number

"Any JSON value, exactly as the event has it."
scalar JSON

"GraphQL tools want it. Payload queries are subscriptions."
type Query {
  "Always null."
  _: Boolean
}

type Subscription {
  "The event's data."
  event: EventData!
}

`

// text prints the schema. The same catalogue always prints the same.
func (s *sdl) text() string {
	var b strings.Builder
	b.WriteString(sdlHead)
	b.WriteString("\"The data of an event, by its type.\"\nunion " + unionName + " =")
	for _, o := range s.roots {
		b.WriteString("\n  | " + o.name)
	}
	b.WriteString("\n")
	for _, list := range [][]*object{s.roots, s.nested} {
		for _, o := range list {
			b.WriteString("\n")
			writeDescription(&b, "", o.description)
			fmt.Fprintf(&b, "type %s {\n", o.name)
			for _, f := range o.fields {
				writeDescription(&b, "  ", f.description)
				fmt.Fprintf(&b, "  %s: %s\n", f.name, f.typ)
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

// writeDescription writes a text from a schema as a block string that nothing in it can end.
func writeDescription(b *strings.Builder, indent, text string) {
	if len(text) > maxDescription {
		text = text[:maxDescription] + "…"
	}
	text = strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) || r == '\ufeff' || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimSpace(strings.ReplaceAll(text, `"""`, `\"""`))
	if text == "" {
		return
	}
	b.WriteString(indent + `"""` + "\n")
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
	}
	b.WriteString(indent + `"""` + "\n")
}
