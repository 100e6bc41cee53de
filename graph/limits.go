package graph

import (
	"fmt"
	"math"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/lexer"
)

// Limits bounds what one request may ask for. Each bound has its own error; a zero field means the
// default in brackets. Everything but Complexity, ListInput and Introspection is counted before the
// document is validated, because validation itself can cost the square of what it is given.
type Limits struct {
	// BodyBytes is the largest body [26 MiB, a full batch and what is around it]; larger ones are refused before they are read.
	BodyBytes int64
	// AnonymousBytes is the largest body of a caller without a valid key [64 KiB].
	AnonymousBytes int64
	// Nesting is how deep arrays and objects of the body may nest [512].
	Nesting int
	// Tokens is how many tokens a document may have [2,000]. Inside a mutation the literal lists
	// and objects of arguments are counted apart, up to LiteralTokens [100,000].
	Tokens        int
	LiteralTokens int
	// Operations, Fragments and Variables are how many of them a document may define [20, 50, 100].
	Operations int
	Fragments  int
	Variables  int
	// SelectionsPerSet is how many selections may stand between two braces [200].
	SelectionsPerSet int
	// Selections is how many fields an operation may select once its fragments are put in [2,000].
	Selections int
	// RootFields is how many fields the root of an operation may select [20].
	RootFields int
	// Depth is how many fields may nest [15]; introspection may nest 20.
	Depth int
	// Aliases is how many aliases an operation may use [50].
	Aliases int
	// Directives is how many directives a document may use [50].
	Directives int
	// Complexity is how many fields an answer may have, pages taken at the size asked for [50,000];
	// fields that cost more than others count for more. See complexity.go.
	Complexity int
	// ListInput is how many entries a list in arguments may have [1,000, or twice what emitEvents takes].
	// The events of emitEvents have a limit of their own.
	ListInput int
	// CachedDocuments is how many checked documents are kept [1,000], each of at most 16 KiB.
	CachedDocuments int
	// ValidationErrors is how many of a document's faults are told [20].
	ValidationErrors int

	events int // that emitEvents takes at once
}

const introspectionDepth = 20

func orDefault[N int | int64](n *N, value N) {
	if *n == 0 {
		*n = value
	}
}

// setDefaults fills in what is zero, for an intake that takes maxBatch events at once.
func (l *Limits) setDefaults(maxBatch int) {
	orDefault(&l.BodyBytes, 26<<20)
	orDefault(&l.AnonymousBytes, 64<<10)
	orDefault(&l.Nesting, 512)
	orDefault(&l.Tokens, 2_000)
	orDefault(&l.LiteralTokens, 100_000)
	orDefault(&l.Operations, 20)
	orDefault(&l.Fragments, 50)
	orDefault(&l.Variables, 100)
	orDefault(&l.SelectionsPerSet, 200)
	orDefault(&l.Selections, 2_000)
	orDefault(&l.RootFields, 20)
	orDefault(&l.Depth, 15)
	orDefault(&l.Aliases, 50)
	orDefault(&l.Directives, 50)
	orDefault(&l.Complexity, 50_000)
	orDefault(&l.ListInput, max(1_000, 2*maxBatch))
	l.events = maxBatch
	orDefault(&l.CachedDocuments, 1_000)
	orDefault(&l.ValidationErrors, 20)
}

// eventInput is the entries' type of the list whose length emitEvents judges itself, in userErrors.
const eventInput = "EmitEventInput"

func tooComplex(format string, args ...any) *gqlerror.Error {
	return newError(codeTooComplex, fmt.Sprintf(format, args...))
}

// countTokens refuses a document that is too long to be parsed. It reads no further than the
// limits. Faults of the text are the parser's to tell.
func (l *Limits) countTokens(query string) *gqlerror.Error {
	lex := lexer.New(&ast.Source{Input: query})
	var tokens, literal int
	var parens, inLiteral, braces int
	var mutation bool
	for {
		t, err := lex.ReadToken()
		if err != nil || t.Kind == lexer.EOF {
			break
		}
		switch t.Kind {
		case lexer.ParenL:
			parens++
		case lexer.ParenR:
			parens--
		case lexer.BraceL, lexer.BracketL:
			if parens > 0 {
				inLiteral++
			} else {
				braces++
			}
		case lexer.Name:
			if parens == 0 && braces == 0 && t.Value == "mutation" {
				mutation = true
			}
		default:
		}
		if inLiteral > 0 {
			literal++
		} else {
			tokens++
		}
		switch t.Kind {
		case lexer.BraceR, lexer.BracketR:
			if parens > 0 {
				inLiteral--
			} else {
				braces--
			}
		default:
		}
		if tokens > l.Tokens || literal > l.LiteralTokens {
			break
		}
	}
	switch {
	case tokens > l.Tokens, !mutation && tokens+literal > l.Tokens:
		return tooComplex("the document has more than %d tokens", l.Tokens)
	case literal > l.LiteralTokens:
		return tooComplex("the literals in the document have more than %d tokens; pass data in variables", l.LiteralTokens)
	}
	return nil
}

// extent is how much a selection set asks for once its fragments are put in.
type extent struct {
	fields, aliases, depth int
	introspection          int // the depth of what is under __schema and __type
}

func (e *extent) add(o extent) {
	e.fields = saturate(e.fields, o.fields)
	e.aliases = saturate(e.aliases, o.aliases)
	e.depth = max(e.depth, o.depth)
	e.introspection = max(e.introspection, o.introspection)
}

// saturate adds without wrapping: fragments can double a sum as often as there are fragments.
func saturate(a, b int) int { return min(a+b, math.MaxInt32) }

// counter measures a document that was parsed and not validated.
type counter struct {
	limits     *Limits
	doc        *ast.QueryDocument
	fragments  map[string]extent
	open       map[string]bool // fragments that are being measured: meeting one again is a cycle
	directives int
	err        *gqlerror.Error
}

// check refuses what would be expensive to validate or to run.
func (l *Limits) check(doc *ast.QueryDocument) *gqlerror.Error {
	switch {
	case len(doc.Operations) > l.Operations:
		return tooComplex("the document has more than %d operations", l.Operations)
	case len(doc.Fragments) > l.Fragments:
		return tooComplex("the document has more than %d fragments", l.Fragments)
	}
	c := counter{limits: l, doc: doc, fragments: map[string]extent{}, open: map[string]bool{}}
	for _, f := range doc.Fragments {
		c.directives += len(f.Directives)
		c.fragment(f)
	}
	for _, op := range doc.Operations {
		c.operation(op)
	}
	if c.err == nil && c.directives > l.Directives {
		return tooComplex("the document has more than %d directives", l.Directives)
	}
	return c.err
}

func (c *counter) fail(err *gqlerror.Error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *counter) operation(op *ast.OperationDefinition) {
	l := c.limits
	c.directives += len(op.Directives)
	for _, v := range op.VariableDefinitions {
		c.directives += len(v.Directives)
	}
	if len(op.VariableDefinitions) > l.Variables {
		c.fail(tooComplex("an operation has more than %d variables", l.Variables))
	}
	e := c.set(op.SelectionSet)
	switch {
	case c.err != nil:
	case e.fields > l.Selections:
		c.fail(tooComplex("an operation selects more than %d fields", l.Selections))
	case e.depth > l.Depth:
		c.fail(tooComplex("an operation nests more than %d fields deep", l.Depth))
	case e.introspection > introspectionDepth:
		c.fail(tooComplex("introspection nests more than %d fields deep", introspectionDepth))
	case e.aliases > l.Aliases:
		c.fail(tooComplex("an operation uses more than %d aliases", l.Aliases))
	case c.rootFields(op.SelectionSet, 0) > l.RootFields:
		c.fail(tooComplex("an operation has more than %d fields at its root", l.RootFields))
	}
}

// rootFields counts the fields at the root of an operation. Cycles are excluded by then; the sum is
// at most extent.fields, which is within its limit.
func (c *counter) rootFields(set ast.SelectionSet, n int) int {
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			n++
		case *ast.InlineFragment:
			n = c.rootFields(s.SelectionSet, n)
		case *ast.FragmentSpread:
			if f := c.doc.Fragments.ForName(s.Name); f != nil {
				n = c.rootFields(f.SelectionSet, n)
			}
		}
	}
	return n
}

func (c *counter) set(set ast.SelectionSet) extent {
	var sum extent
	if len(set) > c.limits.SelectionsPerSet {
		c.fail(tooComplex("a selection set has more than %d selections", c.limits.SelectionsPerSet))
	}
	if c.err != nil {
		return sum
	}
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			sum.add(c.field(s))
		case *ast.InlineFragment:
			c.directives += len(s.Directives)
			sum.add(c.set(s.SelectionSet))
		case *ast.FragmentSpread:
			c.directives += len(s.Directives)
			// One that is not defined is for the validator to tell.
			if f := c.doc.Fragments.ForName(s.Name); f != nil {
				sum.add(c.fragment(f))
			}
		}
	}
	return sum
}

func (c *counter) field(f *ast.Field) extent {
	c.directives += len(f.Directives)
	e := c.set(f.SelectionSet)
	e.fields = saturate(e.fields, 1)
	if f.Alias != f.Name {
		e.aliases = saturate(e.aliases, 1)
	}
	if f.Name == "__schema" || f.Name == "__type" {
		e.introspection, e.depth = e.depth, 0
	}
	e.depth++
	return e
}

func (c *counter) fragment(f *ast.FragmentDefinition) extent {
	if e, ok := c.fragments[f.Name]; ok {
		return e
	}
	if c.open[f.Name] {
		c.fail(newError(codeValidationFailed, fmt.Sprintf("the fragment %q contains itself", cut(f.Name))))
		return extent{}
	}
	c.open[f.Name] = true
	e := c.set(f.SelectionSet)
	delete(c.open, f.Name)
	c.fragments[f.Name] = e
	return e
}
