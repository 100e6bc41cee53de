package catalogue_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	gql "github.com/vektah/gqlparser/v2/ast"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// oddTypes have what GraphQL cannot express, and names that run into each other.
func oddTypes() []models.EventType {
	list := []models.EventType{
		typed("odd.names", `{"properties":{"first-name":{"type":"string","description":"Called \"\"\" so."},"first_name":{"type":"string"},"":{"type":"string"},"1st":{"type":"integer"},"__typename":{"type":"string"},"größe":{"type":"number"},"fine":{"type":"object","properties":{"a b":{"type":"string"},"ok":{"type":"string"}}}}}`),
		typed("odd.kinds", `{"properties":{"either":{"type":["string","integer"]},"maybe":{"anyOf":[{"type":"string"},{"type":"null"}]},"union":{"oneOf":[{"type":"string"},{"type":"object"}]},"tuple":{"prefixItems":[{"type":"string"}]},"matrix":{"items":{"items":{"type":"number"}},"type":"array"},"things":{"type":"array"},"empty":{"type":"object"},"always":true,"never":false,"constant":{"const":"x"},"listed":{"enum":[1,2,null]},"mixed":{"enum":[1,"a"]}}}`),
		typed("odd.recursion", `{"properties":{"node":{"$ref":"#/$defs/node"},"self":{"$ref":"#"}},"$defs":{"node":{"type":"object","description":"A node.","properties":{"value":{"type":"integer"},"next":{"$ref":"#/$defs/node"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}}}}}`),
		typed("odd.composed", `{"allOf":[{"properties":{"a":{"type":"string"}}},{"$ref":"#/$defs/b"}],"properties":{"a":{"description":"Both."}},"$defs":{"b":{"properties":{"b":{"type":"boolean"}}}}}`),
		typed("odd.composed.a", `{"properties":{"x":{"type":"object","properties":{"y":{"type":"string"}}}}}`),
		typed("odd.x", `{"properties":{"y":{"type":"object","properties":{"z":{"type":"string"}}}}}`),
		typed("odd.x.y", `{"properties":{"w":{"type":"string"}}}`),
		{Name: "odd.plain", Title: "No Schema", Status: models.EventTypeDeprecated},
		typed("odd.list", `{"type":"array"}`),
		typed("7.up", `{"properties":{"a":{"type":"string"}}}`),
		typed("event.data", `{"properties":{"a":{"type":"string"}}}`),
	}
	return list
}

func TestSDL(t *testing.T) {
	t.Parallel()
	golden(t, "builtin.graphqls", newCatalogue(t).SDL())
	odd, err := catalogue.New(oddTypes())
	require.NoError(t, err)
	golden(t, "odd.graphqls", odd.SDL())
	require.Equal(t, "_7Up", odd.GraphQLType("7.up"))
	for _, sdl := range []string{newCatalogue(t).SDL(), odd.SDL()} {
		schema, err := gqlparser.LoadSchema(&gql.Source{Input: sdl})
		require.NoError(t, err)
		require.Equal(t, "EventData!", schema.Subscription.Fields.ForName("event").Type.String())
	}
}

func TestPayloadQuery_Shapes(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t, oddTypes()...)
	const participant = `{"participant":{"email":"a@b","id":"p1","phone":null,"tags":[{"id":"t1","name":"T \"1\""},{"id":"t2"}],"attributes":{"n":1.10,"b":9223372036854775808,"s":"\u003c<&>😀\ud83d"}}}`
	tests := map[string]struct{ query, eventType, data, want string }{
		"order of the selection": {`... on ParticipantCreated { participant { id email } }`, "participant.created", participant, `{"participant":{"id":"p1","email":"a@b"}}`},
		"missing and null":       {`... on ParticipantCreated { participant { name phone } }`, "participant.created", participant, `{"participant":{"name":null,"phone":null}}`},
		"missing parent":         {`... on ParticipantCreated { participant { id } }`, "participant.created", `{}`, `{"participant":null}`},
		"aliases":                {`... on ParticipantCreated { p: participant { contact: email mail: email } }`, "participant.created", participant, `{"p":{"contact":"a@b","mail":"a@b"}}`},
		"lists":                  {`... on ParticipantCreated { participant { tags { name } } }`, "participant.created", participant, `{"participant":{"tags":[{"name":"T \"1\""},{"name":null}]}}`},
		"exact bytes":            {`... on ParticipantCreated { participant { attributes } }`, "participant.created", participant, `{"participant":{"attributes":{"n":1.10,"b":9223372036854775808,"s":"\u003c<&>😀\ud83d"}}}`},
		"typenames":              {`__typename ... on ParticipantCreated { participant { __typename } }`, "participant.created", participant, `{"__typename":"ParticipantCreated","participant":{"__typename":"ParticipantCreatedParticipant"}}`},
		"typename of another":    {`kind: __typename ... on ParticipantCreated { participant { id } }`, "message.sent", `{}`, `{"kind":"MessageSent"}`},
		"nothing of this type":   {`... on ParticipantCreated { participant { id } }`, "message.sent", `{"message":{}}`, `{}`},
		"include and skip":       {`... on ParticipantCreated { participant { id @include(if: true) email @include(if: false) name @skip(if: true) phone @skip(if: false) } ... @skip(if: true) { x: participant { id } } }`, "participant.created", participant, `{"participant":{"id":"p1","phone":null}}`},
		"merged fields":          {`... on ParticipantCreated { participant { id } } ... on ParticipantCreated { participant { email id } }`, "participant.created", participant, `{"participant":{"id":"p1","email":"a@b"}}`},
		"fragments":              {`...F } } fragment F on ParticipantCreated { participant { ...G id } } fragment G on ParticipantCreatedParticipant { email ... on ParticipantCreatedParticipant { name`, "participant.created", participant, `{"participant":{"email":"a@b","name":null,"id":"p1"}}`},
		"fragment on the union":  {`...F } } fragment F on EventData { ... on ParticipantCreated { participant { id }`, "participant.created", participant, `{"participant":{"id":"p1"}}`},
		"the last of equal keys": {`... on ParticipantCreated { participant { id } }`, "participant.created", `{"participant":{"id":1},"participant":{"id":2,"id":3}}`, `{"participant":{"id":3}}`},
		"escaped keys":           {`... on ParticipantCreated { participant { id } }`, "participant.created", `{"\u0070articipant":{"\u0069d":1,"i\"d":2}}`, `{"participant":{"id":1}}`},
		"white space":            {`... on ParticipantCreated { participant { id tags { id } } }`, "participant.created", " { \"participant\" : { \"id\" : 1 , \"tags\" : [ { \"id\" : 2 } , null ] } } ", `{"participant":{"id":1,"tags":[{"id":2},null]}}`},
		"a text for an object":   {`... on ParticipantCreated { participant { id } }`, "participant.created", `{"participant":"p1"}`, `{"participant":"p1"}`},
		"a list for an object":   {`... on ParticipantCreated { participant { id } }`, "participant.created", `{"participant":[{"id":1,"x":2},[{"id":3}],4]}`, `{"participant":[{"id":1},[{"id":3}],4]}`},
		"an object for a list":   {`... on ParticipantCreated { participant { tags { id } } }`, "participant.created", `{"participant":{"tags":{"id":1,"name":2}}}`, `{"participant":{"tags":{"id":1}}}`},
		"an object for a text":   {`... on ParticipantCreated { participant { id } }`, "participant.created", `{"participant":{"id":{"x":1}}}`, `{"participant":{"id":{"x":1}}}`},
		"names respelt":          {`... on OddNames { first_name_2 first_name _ _1st typename gr__e fine }`, "odd.names", `{"first-name":1,"first_name":2,"":3,"1st":4,"__typename":5,"größe":6,"fine":{"a b":7}}`, `{"first_name_2":1,"first_name":2,"_":3,"_1st":4,"typename":5,"gr__e":6,"fine":{"a b":7}}`},
		"lists of lists":         {`... on OddKinds { matrix either tuple }`, "odd.kinds", `{"matrix":[[1,2.0],[]],"either":1,"tuple":["a",1]}`, `{"matrix":[[1,2.0],[]],"either":1,"tuple":["a",1]}`},
		"recursion ends in JSON": {`... on OddRecursion { node { value next children } self }`, "odd.recursion", `{"node":{"value":1,"next":{"value":2},"children":[{"value":3}]}}`, `{"node":{"value":1,"next":{"value":2},"children":[{"value":3}]},"self":null}`},
		"composed":               {`... on OddComposed { b a }`, "odd.composed", `{"a":"x","b":true}`, `{"b":true,"a":"x"}`},
		"without a schema":       {`... on OddPlain { all: _data }`, "odd.plain", `{"a":[1,2]}`, `{"all":{"a":[1,2]}}`},
		"a type not known":       {`__typename`, "never.heard", `{}`, `{"__typename":""}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shape, problems := c.CompilePayloadQuery("subscription { event { "+tt.query+" } }", []string{"*"})
			require.Empty(t, problems)
			for range 2 {
				got, err := shape.Body(catalogue.NewSubject(event(tt.eventType, tt.data)))
				require.NoError(t, err)
				require.Equal(t, tt.want, got)
			}
		})
	}
}

func TestPayloadQuery_FailsAtRunTime(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	shape, problems := c.CompilePayloadQuery(`subscription { event { ... on ParticipantCreated { participant { id tags { id } } } } }`, nil)
	require.Empty(t, problems)
	for _, data := range []string{``, `[]`, `{`, `{"participant`, `{"participant":`, `{"participant":{"id":"x`, `{"participant" 1}`, `{1:2}`} {
		_, err := shape.Body(catalogue.NewSubject(event("participant.created", data)))
		require.Error(t, err, data)
	}
	deep := `{"participant":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`
	_, err := shape.Body(catalogue.NewSubject(event("participant.created", deep)))
	require.ErrorContains(t, err, "too much work")
	shape, problems = c.CompilePayloadQuery(manyAliases(400), nil)
	require.Empty(t, problems)
	_, err = shape.Body(catalogue.NewSubject(event("participant.created", `{"participant":{"id":"`+strings.Repeat("x", 100_000)+`"}}`)))
	require.ErrorContains(t, err, "larger than")
}

func TestCompilePayloadQuery_Refuses(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	at := func(line, column int) []models.Location { return []models.Location{{Line: line, Column: column}} }
	var bomb strings.Builder
	bomb.WriteString("subscription { event { ...F0 } } ")
	for i := range 30 {
		fmt.Fprintf(&bomb, "fragment F%d on EventData { ...F%d ...F%d } ", i, i+1, i+1)
	}
	bomb.WriteString("fragment F30 on EventData { __typename }")
	nested := strings.Repeat("... on EventData { ", 30) + "__typename" + strings.Repeat(" }", 30)
	tests := map[string]struct {
		query   string
		code    models.ProblemCode
		message string
		at      []models.Location
	}{
		"unknown field":          {"subscription {\n  event { ... on MessageSent { message { idd } } }\n}", "", `Did you mean "id"`, at(2, 42)},
		"unknown type":           {`subscription { event { ... on MessageSend { message { id } } } }`, "", "MessageSend", at(1, 28)},
		"field on the union":     {`subscription { event { message { id } } }`, "", "Cannot query field", at(1, 24)},
		"no selection":           {`subscription { event { ... on MessageSent { message } } }`, "", "must have a selection", at(1, 45)},
		"selection of a text":    {`subscription { event { ... on MessageSent { message { id { x } } } } }`, "", "Cannot query field", at(1, 60)},
		"a query":                {`query { event { __typename } }`, "", "must be a subscription, not a query", at(1, 1)},
		"the short form":         {`{ event { __typename } }`, "", "must be a subscription", at(1, 1)},
		"a mutation":             {`mutation { event { __typename } }`, "", "not a mutation", at(1, 1)},
		"two operations":         {`subscription A { event { __typename } } subscription B { event { __typename } }`, "", "second one", at(1, 41)},
		"fragments alone":        {`fragment F on EventData { __typename }`, "", "no operation", at(1, 1)},
		"a schema":               {`type X { a: Int }`, "", "Unexpected Name", at(1, 1)},
		"empty":                  {``, "", "no operation", at(1, 1)},
		"not closed":             {`subscription { event {`, "", "Expected Name", at(1, 23)},
		"a cycle":                {`subscription { event { ...F } } fragment F on EventData { ...G } fragment G on EventData { ...F }`, "", "Cannot spread fragment", at(1, 95)},
		"unknown fragment":       {`subscription { event { ...F } }`, "", "Unknown fragment", at(1, 27)},
		"unused fragment":        {`subscription { event { ... on MessageSent { message { id } } } } fragment F on EventData { __typename }`, "", "never used", at(1, 66)},
		"a variable":             {`subscription ($a: Boolean!) { event { __typename @include(if: $a) } }`, "", "no variables", at(1, 15)},
		"undefined variable":     {`subscription { event { __typename @include(if: $a) } }`, "", "if: true or if: false", at(1, 36)},
		"another directive":      {`subscription { event { __typename @defer } }`, "", "only @include and @skip", at(1, 36)},
		"introspection":          {`subscription { event { __schema { types { name } } } }`, "", "not offered", at(1, 24)},
		"beside event":           {`subscription { event { __typename } __typename }`, "", "", at(1, 37)},
		"event twice":            {`subscription { a: event { __typename } b: event { ... on MessageSent { message { id } } } }`, "", "event, once", at(1, 40)},
		"event left out":         {`subscription { event @skip(if: true) { ... on MessageSent { message { id } } } }`, "", "must select event", at(1, 1)},
		"conflict":               {`subscription { event { ... on MessageSent { message { a: id a: channel } } } }`, "", "conflict", at(1, 61)},
		"the named type":         {`subscription { event { ... on ParticipantCreated { participant { id } } } }`, "", "add ... on MessageSent", at(1, 1)},
		"the named type's name":  {`subscription { event { __typename } }`, "", "add ... on MessageSent", at(1, 1)},
		"the named type skipped": {`subscription { event { ... on MessageSent @include(if: false) { message { id } } } }`, "", "add ... on MessageSent", at(1, 1)},
		"too long":               {"subscription { event { __typename } } #" + strings.Repeat("x", 16<<10), models.CodeTooLong, "at most 16384", nil},
		"too many tokens":        {"subscription { event { " + strings.Repeat("a ", 3000) + "} }", "", "token", nil},
		"too many in a set":      {"subscription { event { ... on MessageSent { message { " + strings.Repeat("id ", 201) + "} } } }", "", "at most 200", at(1, 655)},
		"deep":                   {"subscription { event { " + nested + " } }", "", "deeper than 20", at(1, 389)},
		"fragments that explode": {bomb.String(), "", "too much", nil},
		"NUL":                    {"subscription { event { __typename } }\x00", "", "NUL", at(1, 38)},
		"no UTF-8":               {"\xff", "", "text", at(1, 1)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := c.CompilePayloadQuery(tt.query, []string{"message.sent"})
			require.NotEmpty(t, problems)
			if tt.code == "" {
				tt.code = models.CodeInvalidPayloadQuery
			}
			require.Equal(t, tt.code, problems[0].Code)
			require.Contains(t, problems[0].Message, tt.message)
			if tt.at != nil {
				require.Equal(t, tt.at, problems[0].Locations, problems[0].Message)
			}
			if tt.code != models.CodeTooLong {
				require.NotEmpty(t, problems[0].Locations)
			}
			require.LessOrEqual(t, len(problems), 20)
			for i, p := range problems {
				require.NotContains(t, problems[:i], p)
			}
		})
	}
}

// The projector does what decoding everything and selecting would do.
func TestPayloadQuery_IsDecodeAndSelect(t *testing.T) {
	t.Parallel()
	node := `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"number"},"c":{"type":"array","items":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"number"}}}}}}`
	c := newCatalogue(t, typed("tree.grown", `{"properties":{"a":{"type":"string"},"b":{"type":"number"},"o":`+node+`,"l":{"type":"array","items":`+node+`}}}`))
	rapid.Check(t, func(t *rapid.T) {
		selection := drawSelection(t, []string{"a", "b", "o", "l"})
		data := drawObject(t, 3)
		shape, problems := c.CompilePayloadQuery("subscription { event { ... on TreeGrown "+selection.text()+" } }", []string{"tree.grown"})
		require.Empty(t, problems)
		got, err := shape.Body(catalogue.NewSubject(event("tree.grown", data)))
		require.NoError(t, err)
		require.Equal(t, selection.apply(decode(t, data)), decode(t, got), "%s of %s", selection.text(), data)
		again, err := shape.Body(catalogue.NewSubject(event("tree.grown", data)))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}

type selected struct {
	alias, name string
	within      selection
}

type selection []selected

func drawSelection(t *rapid.T, names []string) selection {
	var s selection
	for i := range rapid.IntRange(1, 4).Draw(t, "fields") {
		f := selected{alias: fmt.Sprintf("x%d", i), name: rapid.SampledFrom(names).Draw(t, "name")}
		switch f.name {
		case "o", "l":
			f.within = drawSelection(t, []string{"a", "b", "c"})
		case "c":
			f.within = drawSelection(t, []string{"a", "b"})
		}
		s = append(s, f)
	}
	return s
}

func (s selection) text() string {
	var b strings.Builder
	b.WriteString("{ ")
	for _, f := range s {
		b.WriteString(f.alias + ": " + f.name + " ")
		if f.within != nil {
			b.WriteString(f.within.text() + " ")
		}
	}
	return b.String() + "}"
}

func (s selection) apply(value any) any {
	switch v := value.(type) {
	case map[string]any:
		result := map[string]any{}
		for _, f := range s {
			result[f.alias] = v[f.name]
			if f.within != nil {
				result[f.alias] = f.within.apply(v[f.name])
			}
		}
		return result
	case []any:
		result := make([]any, len(v))
		for i := range v {
			result[i] = s.apply(v[i])
		}
		return result
	}
	return value
}

func decode(t require.TestingT, text string) any {
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var v any
	require.NoError(t, dec.Decode(&v), text)
	return v
}

// drawObject writes an object by hand, so that keys repeat and are escaped, and there is space.
func drawObject(t *rapid.T, depth int) string {
	space := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	key := rapid.SampledFrom([]string{`"a"`, `"b"`, `"c"`, `"o"`, `"l"`, `"\u0061"`, `"z"`, `"a\""`, `"\\"`, `""`})
	var parts []string
	for range rapid.IntRange(0, 5).Draw(t, "keys") {
		parts = append(parts, space.Draw(t, "space")+key.Draw(t, "key")+space.Draw(t, "space")+":"+space.Draw(t, "space")+drawValue(t, depth-1)+space.Draw(t, "space"))
	}
	return "{" + strings.Join(parts, ",") + space.Draw(t, "space") + "}"
}

func drawValue(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	switch {
	case kind == 0 && depth > 0:
		return drawObject(t, depth)
	case kind == 1 && depth > 0:
		var parts []string
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			parts = append(parts, drawValue(t, depth-1))
		}
		return "[ " + strings.Join(parts, " ,") + "]"
	case kind == 2:
		text, _ := json.Marshal(rapid.String().Draw(t, "text"))
		return string(text)
	}
	return rapid.SampledFrom([]string{"1", "-0", "1.10", "9007199254740993", "1e400", "true", "false", "null", `"]}\"{["`, `"\\"`, `"\ud83d"`}).Draw(t, "scalar")
}
