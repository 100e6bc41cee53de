package graph_test

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

func schema(t *testing.T) *ast.Schema {
	t.Helper()
	text, err := os.ReadFile("../schema.graphqls")
	require.NoError(t, err)
	s, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphqls", Input: string(text)})
	require.NoError(t, err)
	return s
}

func TestEveryElementIsDescribed(t *testing.T) {
	t.Parallel()
	var missing []string
	check := func(description, format string, args ...any) {
		if d := strings.TrimSpace(description); len(d) < 5 || !strings.HasSuffix(d, ".") {
			missing = append(missing, fmt.Sprintf(format, args...))
		}
	}
	s := schema(t)
	for _, d := range s.Types {
		if d.BuiltIn {
			continue
		}
		check(d.Description, "%s", d.Name)
		for _, v := range d.EnumValues {
			check(v.Description, "%s.%s", d.Name, v.Name)
		}
		for _, f := range d.Fields {
			if strings.HasPrefix(f.Name, "__") {
				continue
			}
			check(f.Description, "%s.%s", d.Name, f.Name)
			for _, a := range f.Arguments {
				check(a.Description, "%s.%s(%s:)", d.Name, f.Name, a.Name)
			}
		}
	}
	for _, d := range s.Directives {
		if d.Position.Src.BuiltIn {
			continue
		}
		check(d.Description, "@%s", d.Name)
		for _, a := range d.Arguments {
			check(a.Description, "@%s(%s:)", d.Name, a.Name)
		}
	}
	sort.Strings(missing)
	assert.Empty(t, missing, "without a description, or one that is no sentence")
}

// What is not reached through a root field is reached through one, so the roots' rules decide: every
// root field but viewer has one, and what EMIT may call leads to nothing that needs READ.
func TestA1_EveryRootFieldHasAScope(t *testing.T) {
	t.Parallel()
	s := schema(t)
	for _, root := range []*ast.Definition{s.Query, s.Mutation, s.Subscription} {
		for _, f := range root.Fields {
			if strings.HasPrefix(f.Name, "__") || f.Name == "viewer" {
				continue
			}
			assert.NotNilf(t, f.Directives.ForName("auth"), "%s.%s has no @auth", root.Name, f.Name)
		}
	}
}

func TestA1_EMITReachesItsOwnAnswerAlone(t *testing.T) {
	t.Parallel()
	s := schema(t)
	own := map[string]bool{"EmitEventPayload": true, "EmitEventsPayload": true, "Event": true, "UserError": true, "SourceLocation": true}
	seen := map[string]bool{}
	var walk func(d *ast.Definition)
	walk = func(d *ast.Definition) {
		if seen[d.Name] || d.Kind != ast.Object {
			return
		}
		seen[d.Name] = true
		assert.Truef(t, own[d.Name], "EMIT reaches %s", d.Name)
		for _, f := range d.Fields {
			if rule := f.Directives.ForName("auth"); rule == nil {
				walk(s.Types[f.Type.Name()])
			}
		}
	}
	for _, f := range s.Mutation.Fields {
		if scope := f.Directives.ForName("auth").Arguments.ForName("scope").Value.Raw; scope == "EMIT" {
			walk(s.Types[f.Type.Name()])
		}
	}
	assert.Len(t, seen, len(own))
}

// covers is the contract's rule on scopes, written a second time.
var covers = map[string]map[string]bool{
	"READ":   {"READ": true},
	"MANAGE": {"READ": true, "MANAGE": true},
	"EMIT":   {"EMIT": true},
	"ADMIN":  {"READ": true, "MANAGE": true, "EMIT": true, "ADMIN": true},
}

// Every scope calls every root field, with arguments that change nothing: it gets FORBIDDEN exactly
// where the field's rule says so.
func TestA1_EveryScopeOnEveryRootField(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := schema(t)
	keys := map[string]string{"READ": f.read, "MANAGE": f.manage, "EMIT": f.emit, "ADMIN": f.admin}
	paths := 0
	for _, root := range []*ast.Definition{s.Query, s.Mutation} {
		for _, field := range root.Fields {
			if strings.HasPrefix(field.Name, "__") {
				continue
			}
			query := call(s, root, field)
			for scope, key := range keys {
				paths++
				r := f.do(t, key, query, nil)
				allowed := true
				if rule := field.Directives.ForName("auth"); rule != nil {
					allowed = covers[scope][rule.Arguments.ForName("scope").Value.Raw]
				}
				if allowed {
					for _, e := range r.Errors {
						assert.NotContainsf(t, []any{"FORBIDDEN", "UNAUTHENTICATED", "INTERNAL", "GRAPHQL_VALIDATION_FAILED"}, e.Extensions["code"], "%s with %s: %s", query, scope, e.Message)
					}
					continue
				}
				e := requireCode(t, r, "FORBIDDEN")
				assert.Equal(t, []any{field.Name}, e.Path)
				if field.Type.NonNull {
					assert.Equal(t, "null", string(r.Data))
				} else {
					assert.JSONEq(t, `{"`+field.Name+`":null}`, string(r.Data))
				}
			}
		}
	}
	t.Logf("%d pairs of scope and root field", paths)
}

// call is a document that calls a root field with harmless values for what it requires.
func call(s *ast.Schema, root *ast.Definition, field *ast.FieldDefinition) string {
	var args []string
	for _, a := range field.Arguments {
		if a.Type.NonNull && a.DefaultValue == nil {
			args = append(args, a.Name+": "+harmless(s, a.Type))
		}
	}
	if field.Name == "webhook" {
		args = append(args, `id: "x"`)
	}
	text := field.Name
	if len(args) > 0 {
		text += "(" + strings.Join(args, ", ") + ")"
	}
	if s.Types[field.Type.Name()].IsCompositeType() {
		text += " { __typename }"
	}
	return strings.ToLower(root.Name) + " { " + text + " }"
}

func harmless(s *ast.Schema, t *ast.Type) string {
	if t.Elem != nil {
		return "[]"
	}
	d := s.Types[t.NamedType]
	switch {
	case d.Kind == ast.InputObject:
		var fields []string
		for _, f := range d.Fields {
			if f.Type.NonNull && f.DefaultValue == nil {
				fields = append(fields, f.Name+": "+harmless(s, f.Type))
			}
		}
		return "{" + strings.Join(fields, ", ") + "}"
	case d.Kind == ast.Enum:
		return d.EnumValues[0].Name
	case d.Name == "JSON":
		return "{}"
	case d.Name == "Time":
		return `"2026-03-01T12:00:00Z"`
	default:
		return `""`
	}
}

// Every field that an EMIT key may come to is asked for, one by one, with the scopes that may and
// may not read it.
func TestA1_FieldsUnderEmit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(t, f.manage, "receiver")
	for name, tc := range map[string]struct {
		selection string
		path      []any // of the error; nil: none
	}{
		"the event's own fields": {selection: "event { id tenant eventType data timestamp deliverAt idempotencyKey createdAt erasedAt }"},
		"what it matched":        {selection: "duplicate matched userErrors { code }"},
		"deliveries":             {selection: "deliveries { nodes { id } }", path: []any{"emitEvent", "deliveries"}},
		"the event's deliveries": {selection: "event { deliveries { nodes { webhook { targetUrl } } } }", path: []any{"emitEvent", "event", "deliveries"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query := `mutation { emitEvent(input: {eventType: "message.sent", data: {}}) { ` + tc.selection + ` } }`
			for _, key := range []string{f.emit, f.platformEmit} {
				r := f.do(t, key, query, nil)
				if tc.path == nil {
					assert.Empty(t, r.Errors)
					continue
				}
				assert.Equal(t, tc.path, requireCode(t, r, "FORBIDDEN").Path)
			}
			assert.Empty(t, f.do(t, f.all, query, nil).Errors, "MANAGE includes READ")
			assert.Empty(t, f.do(t, f.admin, query, nil).Errors)
		})
	}
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	f := setup(t)
	v := get[tree](t, f, f.emit, introspect, nil)
	for _, d := range v.at("__schema", "directives").([]any) {
		assert.NotEqual(t, "defer", d.(map[string]any)["name"], "an answer is one document")
	}
	assert.Contains(t, f.do(t, f.read, `{ __type(name: "Webhook") { fields { name description } } }`, nil).body, "secretKeyHint")
}
