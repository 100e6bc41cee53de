package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	gql "github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxQuery bounds a payload query, in bytes.
	maxQuery = 16 << 10
	// maxQueryTokens bounds what the parser reads, which bounds what the rules have to compare.
	maxQueryTokens = 2_000
	// maxSelections bounds one selection set: comparing its fields is quadratic.
	maxSelections = 200
	// maxQueryDepth bounds how deep selections nest, fragments laid out.
	maxQueryDepth = 20
	// maxSelected bounds the fields that a query selects, fragments laid out.
	maxSelected = 1_000
)

// Shape is a compiled payload query. It is immutable and safe for concurrent use.
type Shape struct {
	plans map[string]*plan  // by event type, of those that the query names
	rest  *plan             // of the others: what is selected on EventData itself
	names map[string]string // by event type: its GraphQL type

	selectedOn map[string]bool // GraphQL types that fields are selected on
	position   []models.Location
}

// queryErrors collects what is wrong with a document.
type queryErrors struct{ problems models.Problems }

func (q *queryErrors) add(pos *gql.Position, format string, args ...any) {
	if len(q.problems) >= maxProblems {
		return
	}
	problem := models.Problem{
		Code: models.CodeInvalidPayloadQuery, Message: shorten(fmt.Sprintf(format, args...)), Locations: locationOf(pos),
	}
	// Two rules, or the two ends of a conflict, may say the same.
	if !slices.ContainsFunc(q.problems, func(p models.Problem) bool {
		return p.Message == problem.Message && slices.Equal(p.Locations, problem.Locations)
	}) {
		q.problems = append(q.problems, problem)
	}
}

// locationOf gives a position; what has none is wrong with the document as a whole.
func locationOf(pos *gql.Position) []models.Location {
	if pos == nil || pos.Line == 0 {
		return atStart()
	}
	return []models.Location{{Line: pos.Line, Column: max(1, pos.Column)}}
}

func (q *queryErrors) addGraphQL(err error) {
	var list gqlerror.List
	var one *gqlerror.Error
	switch {
	case errors.As(err, &list):
		for _, e := range list {
			q.addGraphQL(e)
		}
	case errors.As(err, &one):
		var pos *gql.Position
		if len(one.Locations) > 0 {
			pos = &gql.Position{Line: one.Locations[0].Line, Column: one.Locations[0].Column}
		}
		q.add(pos, "%s", one.Message)
	default:
		q.add(nil, "%s", err)
	}
}

// compileShape compiles a payload query, without regard to the event types of a webhook.
func (c *Catalogue) compileShape(document string) (*Shape, models.Problems) {
	q := &queryErrors{}
	switch {
	case len(document) > maxQuery:
		return nil, models.Problems{{Code: models.CodeTooLong, Message: fmt.Sprintf("the payload query has %d bytes; at most %d are allowed", len(document), maxQuery)}}
	case !utf8.ValidString(document) || strings.ContainsRune(document, 0):
		q.add(nil, "the payload query must be text without NUL characters")
		q.problems[0].Locations = notText(document)
		return nil, q.problems
	}
	doc, err := parser.ParseQueryWithTokenLimit(&gql.Source{Input: document}, maxQueryTokens)
	if err != nil {
		q.addGraphQL(err)
		return nil, q.problems
	}
	if q.checkForm(doc); len(q.problems) > 0 {
		return nil, q.problems
	}
	loaded, err := c.graphql()
	if err != nil {
		q.add(nil, "the event catalogue has no GraphQL schema: %s", err)
		return nil, q.problems
	}
	for _, e := range validator.ValidateWithRules(loaded, doc, rules.NewDefaultRules()) {
		q.addGraphQL(e)
	}
	if len(q.problems) > 0 {
		return nil, q.problems
	}
	planner := &planner{errors: q, catalogue: c, selectedOn: map[string]bool{}}
	shape := planner.shape(doc.Operations[0])
	if len(q.problems) > 0 {
		return nil, q.problems
	}
	shape.selectedOn, shape.position = planner.selectedOn, locationOf(doc.Operations[0].Position)
	return shape, nil
}

// checkForm refuses what is not one bounded subscription, before the rules look at the document.
func (q *queryErrors) checkForm(doc *gql.QueryDocument) {
	switch len(doc.Operations) {
	case 0:
		q.add(nil, "the payload query has no operation; write subscription { event { … } }")
	case 1:
	default:
		q.add(doc.Operations[1].Position, "the payload query must be one operation; this is a second one")
	}
	for _, op := range doc.Operations {
		if op.Operation != gql.Subscription {
			q.add(op.Position, "the payload query must be a subscription, not a %s; write subscription { event { … } }", op.Operation)
		}
		if len(op.VariableDefinitions) > 0 {
			q.add(op.VariableDefinitions[0].Position, "a payload query has no variables: nobody could give them values")
		}
		for _, d := range op.Directives {
			q.add(d.Position, "@%s is not allowed here", d.Name)
		}
		q.checkSelections(op.SelectionSet, 1)
	}
	for _, f := range doc.Fragments {
		for _, d := range f.Directives {
			q.add(d.Position, "@%s is not allowed here", d.Name)
		}
		q.checkSelections(f.SelectionSet, 1)
	}
}

func (q *queryErrors) checkSelections(set gql.SelectionSet, depth int) {
	if len(set) > maxSelections {
		q.add(set[maxSelections].GetPosition(), "%d selections in one place; at most %d are allowed", len(set), maxSelections)
	}
	if depth > maxQueryDepth && len(set) > 0 {
		q.add(set[0].GetPosition(), "the payload query nests deeper than %d levels", maxQueryDepth)
		return
	}
	for _, selection := range set {
		switch s := selection.(type) {
		case *gql.Field:
			if strings.HasPrefix(s.Name, "__") && s.Name != "__typename" {
				q.add(s.Position, "%s is not offered in payload queries; read eventCatalogueSdl instead", s.Name)
			}
			q.checkDirectives(s.Directives)
			q.checkSelections(s.SelectionSet, depth+1)
		case *gql.InlineFragment:
			q.checkDirectives(s.Directives)
			q.checkSelections(s.SelectionSet, depth+1)
		case *gql.FragmentSpread:
			q.checkDirectives(s.Directives)
		}
	}
}

func (q *queryErrors) checkDirectives(list gql.DirectiveList) {
	for _, d := range list {
		if d.Name != "include" && d.Name != "skip" {
			q.add(d.Position, "@%s is not offered in payload queries, only @include and @skip", d.Name)
			continue
		}
		if arg := d.Arguments.ForName("if"); arg == nil || arg.Value == nil || arg.Value.Kind != gql.BooleanValue {
			q.add(d.Position, "@%s needs if: true or if: false", d.Name)
		}
	}
}

// planner lays fragments out and makes plans of selections.
type planner struct {
	errors     *queryErrors
	catalogue  *Catalogue
	selected   int
	selectedOn map[string]bool // GraphQL types of event types that fields are selected on
}

// included reports whether constants leave a selection in.
func included(list gql.DirectiveList) bool {
	for _, d := range list {
		if arg := d.Arguments.ForName("if"); (arg.Value.Raw == "true") != (d.Name == "include") {
			return false
		}
	}
	return true
}

// shape makes the plan of each event type that the query can tell apart.
func (p *planner) shape(op *gql.OperationDefinition) *Shape {
	var sets []gql.SelectionSet
	var first *gql.Field
	p.collect("Subscription", []gql.SelectionSet{op.SelectionSet}, func(f *gql.Field) {
		if f.Name != eventField || first != nil && first.Alias != f.Alias {
			p.errors.add(f.Position, "a payload query selects event, once, and nothing beside it")
			return
		}
		first = f
		sets = append(sets, f.SelectionSet)
	})
	if len(sets) == 0 {
		p.errors.add(op.Position, "a payload query must select event")
		return nil
	}
	shape := &Shape{plans: map[string]*plan{}, names: p.catalogue.graphqlNames}
	named := map[string]bool{}
	for _, set := range sets {
		conditions(set, named, map[*gql.FragmentDefinition]bool{})
	}
	for _, e := range p.catalogue.types {
		if named[e.graphqlType] {
			shape.plans[e.Name] = p.plan(e.graphqlType, sets, 1)
		}
	}
	shape.rest = p.plan("", sets, 1)
	return shape
}

// conditions collects the types that fragments are for.
func conditions(set gql.SelectionSet, named map[string]bool, seen map[*gql.FragmentDefinition]bool) {
	for _, selection := range set {
		switch s := selection.(type) {
		case *gql.InlineFragment:
			named[s.TypeCondition] = true
			conditions(s.SelectionSet, named, seen)
		case *gql.FragmentSpread:
			if s.Definition != nil && !seen[s.Definition] {
				seen[s.Definition] = true
				named[s.Definition.TypeCondition] = true
				conditions(s.Definition.SelectionSet, named, seen)
			}
		case *gql.Field:
		}
	}
}

// collect calls do for every field that the sets select on an object of a type, in order.
func (p *planner) collect(typ string, sets []gql.SelectionSet, do func(*gql.Field)) {
	for _, set := range sets {
		for _, selection := range set {
			if p.selected++; p.selected > 20*maxSelected {
				return
			}
			switch s := selection.(type) {
			case *gql.Field:
				if included(s.Directives) {
					do(s)
				}
			case *gql.InlineFragment:
				if included(s.Directives) && applies(s.TypeCondition, typ) {
					p.collect(typ, []gql.SelectionSet{s.SelectionSet}, do)
				}
			case *gql.FragmentSpread:
				if included(s.Directives) && applies(s.Definition.TypeCondition, typ) {
					p.collect(typ, []gql.SelectionSet{s.Definition.SelectionSet}, do)
				}
			}
		}
	}
}

func applies(condition, typ string) bool {
	return condition == "" || condition == unionName || condition == typ
}

// plan makes the plan of what the sets select on a type. Fields of one response key are one field,
// whose selections are taken together.
func (p *planner) plan(typ string, sets []gql.SelectionSet, depth int) *plan {
	type merged struct {
		field *gql.Field
		sets  []gql.SelectionSet
	}
	var order []*merged
	byKey := map[string]*merged{}
	p.collect(typ, sets, func(f *gql.Field) {
		if f.ObjectDefinition != nil && f.ObjectDefinition.Kind == gql.Object {
			p.selectedOn[f.ObjectDefinition.Name] = true
		}
		m := byKey[f.Alias]
		if m == nil {
			m = &merged{field: f}
			byKey[f.Alias] = m
			order = append(order, m)
		}
		if len(f.SelectionSet) > 0 {
			m.sets = append(m.sets, f.SelectionSet)
		}
	})
	result := &plan{}
	if depth > maxQueryDepth {
		p.errors.add(order[0].field.Position, "the payload query nests deeper than %d levels, fragments laid out", maxQueryDepth)
		return result
	}
	for _, m := range order {
		if p.selected > 20*maxSelected || len(result.fields) > maxSelected {
			p.errors.add(m.field.Position, "the payload query selects too much, fragments laid out: at most %d fields are allowed", maxSelected)
			return result
		}
		key, _ := json.Marshal(m.field.Alias) // a name: it always encodes
		f := planField{key: string(key) + ":"}
		switch {
		case m.field.Name == "__typename" && typ != "":
			name, _ := json.Marshal(typ)
			f.constant = string(name)
		case m.field.Name == "__typename":
			f.typename = true
		default:
			source, whole := p.catalogue.derived.sourceOf(typ, m.field.Name)
			if f.whole = whole; whole {
				break
			}
			f.source = result.source(source)
			if len(m.sets) > 0 {
				f.within = p.plan(m.field.Definition.Type.Name(), m.sets, depth+1)
			}
		}
		result.fields = append(result.fields, f)
	}
	result.prepare()
	return result
}

// requireExact refuses a query that selects nothing of a type that the webhook names.
func (c *Catalogue) requireExact(shape *Shape, patterns []string) models.Problems {
	var problems models.Problems
	for _, pattern := range patterns {
		e, ok := c.types[pattern]
		if ok && !shape.selectedOn[e.graphqlType] {
			problems = append(problems, models.Problem{
				Code: models.CodeInvalidPayloadQuery, Locations: shape.position,
				Message: fmt.Sprintf("the webhook names %s, but the payload query selects nothing of it; add ... on %s { … }", pattern, e.graphqlType),
			})
		}
	}
	return problems
}

// Body gives data as the query shapes it: the value of event, with exactly the digits and
// characters that the event came with. The same event always gives the same bytes.
func (sh *Shape) Body(s *Subject) (string, error) {
	p, ok := sh.plans[s.event.Type]
	if !ok {
		p = sh.rest
	}
	return p.project(s.event.Data, sh.names[s.event.Type])
}
