package catalogue_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	gql "github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/catalogue"
)

// What compiles also runs, without a panic, on data of any kind.
func FuzzFilter(f *testing.F) {
	for _, source := range []string{`data.a == 1 && has(data.b.c)`, `data.l.exists(x, x.y > 2.5)`, `timestamp > timestamp("2026-01-01T00:00:00Z")`, `id.matches("^e") || type in ["a", "b"]`, "data.`x y` / 0 == 1", `size(data.a) % 2 == 1 ? true : false`} {
		f.Add(source, `{"a":[1,2.5],"l":[{"y":3}],"b":null}`)
	}
	c := newCatalogue(f, typed("order.paid", orderSchema))
	f.Fuzz(func(t *testing.T, source, data string) {
		for _, patterns := range [][]string{{"*"}, {"order.paid"}} {
			filter, problems := c.CompileFilter(source, patterns)
			if (filter == nil) != (len(problems) > 0) {
				t.Fatalf("neither a filter nor a problem, or both: %v", problems)
			}
			if filter != nil {
				pass, _, err := filter.Pass(catalogue.NewSubject(event("order.paid", data)))
				if pass && err != nil {
					t.Fatal("an error is never a match")
				}
			}
		}
	})
}

// What compiles gives valid JSON for valid data.
func FuzzPayloadQuery(f *testing.F) {
	f.Add(`subscription { event { ... on ParticipantCreated { participant { id tags { name } } } } }`)
	f.Add(`subscription S { e: event { ...F __typename } } fragment F on MessageSent { message { id @skip(if: true) channel } }`)
	c := newCatalogue(f, oddTypes()...)
	examples := map[string]string{"odd.plain": `{"a":1}`}
	for _, b := range catalogue.Builtin() {
		examples[b.Name] = *b.Example
	}
	f.Fuzz(func(t *testing.T, document string) {
		shape, problems := c.CompilePayloadQuery(document, []string{"participant.created"})
		if (shape == nil) != (len(problems) > 0) {
			t.Fatalf("neither a shape nor a problem, or both: %v", problems)
		}
		if shape == nil {
			return
		}
		for name, data := range examples {
			if body, err := shape.Body(catalogue.NewSubject(event(name, data))); err == nil && !json.Valid([]byte(body)) {
				t.Fatalf("not JSON: %s", body)
			}
		}
	})
}

// A schema is refused, or everything that is derived from it is sound.
func FuzzSchema(f *testing.F) {
	for _, et := range append(oddTypes(), typed("a.b", strictSchema), typed("a.b", orderSchema)) {
		if et.Schema != nil {
			f.Add(*et.Schema, `{"a":1}`)
		}
	}
	empty := newCatalogue(f)
	f.Fuzz(func(t *testing.T, schema, data string) {
		et := typed("order.paid", schema)
		et.Strict = true
		if len(empty.CheckType(et)) > 0 {
			return
		}
		c := newCatalogue(t, et)
		_ = c.CheckData("order.paid", data)
		if _, err := gqlparser.LoadSchema(&gql.Source{Input: c.SDL()}); err != nil {
			t.Fatalf("derived schema: %s\n%s", err, c.SDL())
		}
		if _, problems := c.CompileFilter(`has(data.a) || true`, []string{"order.paid"}); len(problems) > 0 && !strings.Contains(problems[0].Message, "no field") {
			t.Fatal(problems)
		}
	})
}

// Whatever data is, projecting it ends without a panic, and valid data gives valid JSON.
func FuzzProject(f *testing.F) {
	for _, b := range catalogue.Builtin() {
		f.Add(*b.Example)
	}
	f.Add(`{"participant":[{"id":"\\"}, {"id"`)
	c := newCatalogue(f)
	shape, problems := c.CompilePayloadQuery(`subscription { event { __typename ... on ParticipantCreated { participant { id a: id tags { name } attributes } p: participant { email } } } }`, nil)
	if len(problems) > 0 {
		f.Fatal(problems)
	}
	f.Fuzz(func(t *testing.T, data string) {
		body, err := shape.Body(catalogue.NewSubject(event("participant.created", data)))
		var object map[string]any
		if json.Unmarshal([]byte(data), &object) != nil || object == nil {
			return
		}
		if err != nil || !json.Valid([]byte(body)) {
			t.Fatalf("%v: %s", err, body)
		}
	})
}
