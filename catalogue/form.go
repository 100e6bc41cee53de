package catalogue

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// kind is what a schema says that a value is.
type kind int

const (
	kindAny kind = iota // of several kinds, of unknown form, or more than can be said here
	kindBoolean
	kindNumber
	kindString
	kindList
	kindObject
)

// form is what filters and payload queries know about a value: the part of a JSON Schema that
// says which fields there are. Every value may also be null or missing.
type form struct {
	kind        kind
	description string
	fields      []field // kindObject: at least one, in the order of the schema's text
	open        bool    // kindObject: fields that are not listed are expected, too
	item        *form   // kindList
}

// field is a named field of an object.
type field struct {
	name string
	form *form
}

func (f *form) field(name string) (*form, bool) {
	for i := range f.fields {
		if f.fields[i].name == name {
			return f.fields[i].form, true
		}
	}
	return nil, false
}

func (f *form) fieldNames() []string {
	names := make([]string, len(f.fields))
	for i := range f.fields {
		names[i] = f.fields[i].name
	}
	return names
}

const (
	// maxFormDepth is how deep objects and lists are followed; what is below is kindAny.
	maxFormDepth = 16
	// maxFormSize bounds the fields of one type: schemas share definitions, and a few lines of
	// $ref can stand for a tree of any size.
	maxFormSize = 2000
	// maxCombined bounds how many schemas are laid over each other for one value.
	maxCombined = 50
)

// former turns a compiled schema into a form.
type former struct {
	outline *outline
	size    int
}

// formOf gives the form that a schema describes. text is the schema as it was compiled.
func formOf(sch *jsonschema.Schema, text string) *form {
	f := &former{outline: newOutline(text)}
	return f.of([]*jsonschema.Schema{sch}, nil)
}

// of gives the form of a value that all of the schemas hold for. above has the schemas that are
// being followed: one that comes again is a recursion, which no finite form can express.
func (f *former) of(schemas []*jsonschema.Schema, above []*jsonschema.Schema) *form {
	all, ok := combine(schemas)
	if !ok || len(above) >= maxFormDepth*4 {
		return &form{}
	}
	for _, s := range all {
		if slices.Contains(above, s) {
			return &form{description: describe(all)}
		}
	}
	above = append(slices.Clip(above), all...)
	result := &form{kind: kindOf(all), description: describe(all)}
	if f.size++; f.size > maxFormSize || len(above) > maxFormDepth*maxCombined {
		result.kind = kindAny
		return result
	}
	switch result.kind {
	case kindObject:
		f.fillObject(result, all, above)
	case kindList:
		f.fillList(result, all, above)
	case kindAny, kindBoolean, kindNumber, kindString:
	}
	return result
}

func (f *former) fillObject(result *form, all, above []*jsonschema.Schema) {
	byName := map[string][]*jsonschema.Schema{}
	var names []string
	for _, s := range all {
		for _, name := range f.sorted(s) {
			if _, ok := byName[name]; !ok {
				names = append(names, name)
			}
			byName[name] = append(byName[name], s.Properties[name])
		}
		result.open = result.open || isOpen(s)
	}
	for _, name := range names {
		result.fields = append(result.fields, field{name: name, form: f.of(byName[name], above)})
	}
	if len(names) == 0 {
		result.kind = kindAny
	}
}

func (f *former) fillList(result *form, all, above []*jsonschema.Schema) {
	var items []*jsonschema.Schema
	for _, s := range all {
		if len(s.PrefixItems) > 0 { // a tuple: its places differ
			result.kind = kindAny
			return
		}
		if s.Items2020 != nil {
			items = append(items, s.Items2020)
		}
	}
	result.item = &form{}
	if len(items) > 0 {
		result.item = f.of(items, above)
	}
}

// combine lays out $ref, allOf and optional values ("anyOf": [X, {"type": "null"}]): all schemas
// that hold for one value. ok is false where alternatives leave more than one.
func combine(schemas []*jsonschema.Schema) (all []*jsonschema.Schema, ok bool) {
	queue := slices.Clone(schemas)
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if s == nil || slices.Contains(all, s) {
			continue
		}
		if all = append(all, s); len(all) > maxCombined {
			return nil, false
		}
		if s.Ref != nil {
			queue = append(queue, s.Ref)
		}
		queue = append(queue, s.AllOf...)
		for _, alternatives := range [][]*jsonschema.Schema{s.AnyOf, s.OneOf} {
			if len(alternatives) == 0 {
				continue
			}
			rest := slices.DeleteFunc(slices.Clone(alternatives), isNull)
			if len(rest) > 1 {
				return nil, false
			}
			queue = append(queue, rest...)
		}
		if s.DynamicRef != nil {
			return nil, false
		}
	}
	return all, true
}

func isNull(s *jsonschema.Schema) bool {
	return s.Types != nil && slices.Equal(s.Types.ToStrings(), []string{"null"})
}

// isOpen reports whether a schema speaks of fields that it does not list by name. Leaving
// additionalProperties out allows them as well, but says nothing about them: a filter that uses
// one is then taken for a typing error.
func isOpen(s *jsonschema.Schema) bool {
	additional := s.AdditionalProperties != nil && s.AdditionalProperties != false
	return additional || len(s.PatternProperties) > 0 || s.UnevaluatedProperties != nil && s.UnevaluatedProperties.Bool == nil ||
		s.If != nil || len(s.DependentSchemas) > 0
}

func describe(all []*jsonschema.Schema) string {
	for _, s := range all {
		if s.Description != "" {
			return s.Description
		}
	}
	for _, s := range all {
		if s.Title != "" {
			return s.Title
		}
	}
	return ""
}

// kindOf gives the one kind, null apart, that the schemas allow.
func kindOf(all []*jsonschema.Schema) kind {
	result, known := kindAny, false
	meet := func(k kind) bool {
		if known && k != result {
			return false
		}
		result, known = k, true
		return true
	}
	for _, s := range all {
		if s.Types == nil {
			continue
		}
		own, found := kindAny, false
		for _, name := range s.Types.ToStrings() {
			k, ok := map[string]kind{
				"boolean": kindBoolean, "integer": kindNumber, "number": kindNumber,
				"string": kindString, "array": kindList, "object": kindObject,
			}[name]
			if !ok { // null
				continue
			}
			if found && own != k {
				return kindAny
			}
			own, found = k, true
		}
		if found && !meet(own) {
			return kindAny
		}
	}
	if known {
		return result
	}
	for _, s := range all {
		switch {
		case len(s.Properties) > 0:
			return kindObject
		case s.Items2020 != nil:
			return kindList
		case s.Enum != nil:
			return kindOfValues(s.Enum.Values)
		case s.Const != nil:
			return kindOfValues([]any{*s.Const})
		}
	}
	return kindAny
}

func kindOfValues(values []any) kind {
	result, known := kindAny, false
	for _, v := range values {
		k := kindAny
		switch v.(type) {
		case nil:
			continue
		case bool:
			k = kindBoolean
		case string:
			k = kindString
		case json.Number:
			k = kindNumber
		}
		if known && k != result {
			return kindAny
		}
		result, known = k, true
	}
	return result
}

// sorted gives the names of the schema's properties in the order of its text, and by name where
// the order is not known.
func (f *former) sorted(s *jsonschema.Schema) []string {
	_, fragment, _ := strings.Cut(s.Location, "#")
	if plain, err := url.PathUnescape(fragment); err == nil {
		fragment = plain
	}
	names := make([]string, 0, len(s.Properties))
	for _, name := range f.outline.keys[fragment+"/properties"] {
		if _, ok := s.Properties[name]; ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == len(s.Properties) {
		return names
	}
	names = names[:0]
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
