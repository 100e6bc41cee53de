package graph

import (
	"context"
	"regexp"
	"slices"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"
)

// document is a document that passed every check which does not depend on variables. It is shared by
// all requests that send the same text, and never changed again.
type document struct {
	*ast.QueryDocument
	literals []literal // JSON literals, in the places of which stand variables of our own
}

// documents turns the text of requests into documents, once for each text.
type documents struct {
	schema *ast.Schema
	limits *Limits
	rules  []validator.Rule
	cache  graphql.Cache[*document]
}

// maxCachedText bounds what one cached document's text can hold in memory.
const maxCachedText = 16 << 10

func newDocuments(schema *ast.Schema, limits *Limits) *documents {
	defaults := rules.NewDefaultRules()
	// literals.go checks values: in one walk, with custom scalars and list lengths, and without
	// messages that quote what the caller wrote.
	defaults.RemoveRule(rules.ValuesOfCorrectTypeRule.Name)
	var list []validator.Rule
	for name, rule := range defaults.GetInner() {
		list = append(list, validator.Rule{Name: name, RuleFunc: rule})
	}
	slices.SortFunc(list, func(a, b validator.Rule) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return &documents{schema: schema, limits: limits, rules: list, cache: lru.New[*document](limits.CachedDocuments)}
}

// cached is the document with this text, if it was checked before.
func (d *documents) cached(ctx context.Context, query string) (*document, bool) {
	if len(query) > maxCachedText {
		return nil, false
	}
	return d.cache.Get(ctx, query)
}

// parse reads a document and refuses one that is too large, without validating it.
func (d *documents) parse(query string) (*ast.QueryDocument, gqlerror.List) {
	if err := d.limits.countTokens(query); err != nil {
		return nil, gqlerror.List{err}
	}
	doc, err := parser.ParseQuery(&ast.Source{Input: query})
	if err != nil {
		return nil, gqlerror.List{parseError(err)}
	}
	if len(doc.Operations) == 0 {
		return nil, gqlerror.List{newError(codeValidationFailed, "the document has no operation")}
	}
	if err := d.limits.check(doc); err != nil {
		return nil, gqlerror.List{err}
	}
	return doc, nil
}

// validate checks a parsed document against the schema and keeps it for the next request.
func (d *documents) validate(ctx context.Context, query string, parsed *ast.QueryDocument) (*document, gqlerror.List) {
	//nolint:staticcheck // ValidateWithRules sorts and copies the rules for each document.
	if errs := validator.Validate(d.schema, parsed, d.rules...); len(errs) > 0 {
		return nil, d.limits.cutErrors(errs)
	}
	c := literalChecker{schema: d.schema, limits: d.limits}
	c.document(parsed)
	if len(c.errs) > 0 {
		return nil, d.limits.cutErrors(c.errs)
	}
	doc := &document{QueryDocument: parsed, literals: c.literals}
	// Data written into a document makes it one of a kind: keeping it would only push out others.
	if len(query) <= maxCachedText && len(doc.literals) == 0 {
		d.cache.Add(ctx, query, doc)
	}
	return doc, nil
}

func (l *Limits) cutErrors(errs gqlerror.List) gqlerror.List {
	if len(errs) > l.ValidationErrors {
		errs = errs[:l.ValidationErrors]
	}
	for _, e := range errs {
		e.Message = cut(e.Message)
		if codeOf(e) == "" {
			setCode(e, codeValidationFailed)
		}
	}
	return errs
}

// quotedToken is where the parser's messages quote a token that can hold a caller's data: names too,
// since what does not parse may be anything, a secret in the wrong place for one.
var quotedToken = regexp.MustCompile(`(?s)\b(String|BlockString|Int|Float|Comment|Name) ".*"|escape sequence: .*|character .*|Invalid number.*`)

// parseError is the parser's error without what it quotes of the document.
func parseError(err error) *gqlerror.Error {
	e, ok := err.(*gqlerror.Error) //nolint:errorlint // the parser returns it as it is
	if !ok {
		e = &gqlerror.Error{Message: "the document is not GraphQL"}
	}
	e.Message = cut(quotedToken.ReplaceAllStringFunc(e.Message, func(s string) string {
		if i := quotedToken.FindStringSubmatchIndex(s); i[2] >= 0 {
			return s[i[2]:i[3]]
		}
		switch s[0] {
		case 'e':
			return "escape sequence"
		case 'c':
			return "character"
		default:
			return "Invalid number"
		}
	}))
	setCode(e, codeParseFailed)
	return e
}

// maxMessage bounds messages that name parts of the document.
const maxMessage = 300

// cut bounds a text in characters.
func cut(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return string([]rune(text[:maxMessage])) + "…"
}

// operation finds the operation that a request asks for.
func operation(doc *ast.QueryDocument, name string) (*ast.OperationDefinition, *gqlerror.Error) {
	if name == "" {
		if len(doc.Operations) > 1 {
			return nil, newError(codeBadRequest, "the document has several operations: name one in operationName")
		}
		return doc.Operations[0], nil
	}
	for _, op := range doc.Operations {
		if op.Name == name {
			return op, nil
		}
	}
	return nil, newError(codeBadRequest, "the document has no operation with the name in operationName")
}
