package catalogue

import (
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/intervengine/webhooks/models"
)

// recursion looks for schemas that lead back to themselves. GraphQL selects fields to a depth that
// the document writes down, and a filter loops to a depth that its text writes down, so of data that
// nests without end neither could say what it means: such a schema is refused.
type recursion struct {
	above  map[*jsonschema.Schema]bool // on the way to where the search is
	done   map[*jsonschema.Schema]bool
	closed []*jsonschema.Schema // those whose references close a circle
}

// recursionIn gives a problem for every reference that closes a circle.
func recursionIn(s *schema) models.Problems {
	r := &recursion{above: map[*jsonschema.Schema]bool{}, done: map[*jsonschema.Schema]bool{}}
	r.visit(s.compiled, s.compiled)
	o := newOutline(s.text)
	var problems models.Problems
	for _, found := range r.closed {
		problems = append(problems, invalidSchema(o.referenceIn(found),
			"the schema is recursive: what is here leads back to itself; write the levels out, or leave the innermost open")...)
		if len(problems) == maxProblems {
			break
		}
	}
	return problems
}

// visit searches below s. via is the schema whose reference was the last to be followed: everything
// but references only leads down.
func (r *recursion) visit(s, via *jsonschema.Schema) {
	if r.above[s] {
		if !slices.Contains(r.closed, via) {
			r.closed = append(r.closed, via)
		}
		return
	}
	if r.done[s] {
		return
	}
	r.above[s], r.done[s] = true, true
	below := slices.DeleteFunc(children(s), func(c *jsonschema.Schema) bool { return c == nil })
	slices.SortFunc(below, func(a, b *jsonschema.Schema) int { return strings.Compare(a.Location, b.Location) })
	for _, child := range below {
		if child == s.Ref || s.DynamicRef != nil && child == s.DynamicRef.Ref {
			r.visit(child, s)
		} else {
			r.visit(child, via)
		}
	}
	delete(r.above, s)
}

// referenceIn gives the place of a schema's reference.
func (o *outline) referenceIn(s *jsonschema.Schema) []models.Location {
	for _, keyword := range []string{"/$ref", "/$dynamicRef", ""} {
		if at := o.at(pointerIn(s.Location) + keyword); at != nil {
			return at
		}
	}
	return o.at("")
}
