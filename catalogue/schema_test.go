package catalogue_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

func TestCheckType_Schema(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	tests := map[string]struct {
		schema  string
		message string // "" where it is fine
		at      []models.Location
	}{
		"empty":                    {schema: `{}`},
		"with its draft":           {schema: `{"$schema":"https://json-schema.org/draft/2020-12/schema"}`},
		"shared definitions":       {schema: `{"properties":{"a":{"$ref":"#/$defs/n"},"b":{"items":{"$ref":"#/$defs/n"}}},"$defs":{"n":{"properties":{"m":{"$ref":"#/$defs/m"}}},"m":{"type":"string"}}}`},
		"recursive":                {"{\"properties\":{\n \"child\":{\"$ref\":\"#\"}}}", "recursive", []models.Location{{Line: 2, Column: 18}}},
		"a recursive definition":   {`{"properties":{"list":{"items":{"$ref":"#/$defs/node"}}},"$defs":{"node":{"properties":{"next":{"$ref":"#/$defs/node"}}}}}`, "recursive", []models.Location{{Line: 1, Column: 104}}},
		"two that lead to another": {`{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}}}`, "recursive", []models.Location{{Line: 1, Column: 86}}},
		"entered from within":      {`{"allOf":[{"$ref":"#/$defs/a/properties/x"}],"$defs":{"a":{"properties":{"x":{"$ref":"#/$defs/a"}}}}}`, "recursive", []models.Location{{Line: 1, Column: 86}}},
		"a reference to itself":    {`{"$ref":"#"}`, "recursive", []models.Location{{Line: 1, Column: 9}}},
		"recursive by an anchor":   {`{"$dynamicAnchor":"n","properties":{"next":{"$dynamicRef":"#n"}}}`, "recursive", []models.Location{{Line: 1, Column: 59}}},
		"recursive elsewhere":      {` {"$ref":"https://example.com/n","$defs":{"n":{"$id":"https://example.com/n","items":{"$ref":"n"}}}}`, "recursive", []models.Location{{Line: 1, Column: 94}}},
		"refers within itself":     {schema: `{"$id":"https://example.com/a","properties":{"a":{"$ref":"#x"}},"$defs":{"x":{"$anchor":"x","type":"string"}}}`},
		"another draft":            {"{\n \"$schema\": \"http://json-schema.org/draft-07/schema#\"}", "$schema must be https://json-schema.org/draft/2020-12/schema", []models.Location{{Line: 2, Column: 13}}},
		"not JSON":                 {"{\n  \"type\": }", "not valid JSON", []models.Location{{Line: 2, Column: 11}}},
		"text after it":            {"{}\n {}", "not valid JSON", []models.Location{{Line: 2, Column: 2}}},
		"not an object":            {`[]`, "must be a JSON object", []models.Location{{Line: 1, Column: 1}}},
		"true":                     {` true`, "must be a JSON object", []models.Location{{Line: 1, Column: 2}}},
		"unknown type":             {"{\n  \"properties\": {\"a\": {\"type\": \"strng\"}}}", `at "/properties/a/type": must be array, boolean`, []models.Location{{Line: 2, Column: 32}}},
		"wrong keyword value":      {`{"properties": 5}`, `at "/properties": must be of type object, not number`, []models.Location{{Line: 1, Column: 16}}},
		"bad pattern":              {`{"properties":{"a":{"pattern":"("}}}`, "pattern", []models.Location{{Line: 1, Column: 31}}},
		"bad pattern of names":     {`{"type":"object","patternProperties":{"(":{}}}`, `at "/patternProperties/("`, []models.Location{{Line: 1, Column: 43}}},
		"pattern of another kind":  {`{"pattern":"(?=a)"}`, "pattern", []models.Location{{Line: 1, Column: 12}}},
		"remote reference":         {`{"properties":{"a":{"$ref":"https://example.com/schema.json"}}}`, "not followed", []models.Location{{Line: 1, Column: 21}}},
		"remote dynamic reference": {`{"$dynamicRef":"http://127.0.0.1/x#y"}`, "not followed", []models.Location{{Line: 1, Column: 2}}},
		"file reference":           {`{"$ref":"file:///etc/passwd"}`, "not followed", []models.Location{{Line: 1, Column: 2}}},
		"relative reference":       {`{"$id":"https://example.com/a/b","$ref":"other.json"}`, "not followed", []models.Location{{Line: 1, Column: 34}}},
		"dangling reference":       {`{"properties":{"a":{"$ref":"#/$defs/nope"}}}`, "not found", []models.Location{{Line: 1, Column: 21}}},
		"huge number":              {`{"properties":{"a":{"maximum":1e99999}}}`, "out of range", []models.Location{{Line: 1, Column: 31}}},
		"deep":                     {strings.Repeat(`{"not":`, 200) + "{}" + strings.Repeat("}", 200), "deeper than 100", []models.Location{{Line: 1, Column: 701}}},
		"very deep":                {strings.Repeat(`[`, 10_000) + strings.Repeat("]", 10_000), "deeper than 100", []models.Location{{Line: 1, Column: 101}}},
		"NUL":                      {"{}\x00", "NUL", []models.Location{{Line: 1, Column: 3}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.CheckType(typed("order.paid", tt.schema))
			if tt.message == "" {
				require.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			require.Equal(t, models.CodeInvalidSchema, problems[0].Code)
			require.Equal(t, []string{"schema"}, problems[0].Path)
			require.Contains(t, problems[0].Message, tt.message)
			require.Equal(t, tt.at, problems[0].Locations, problems[0].Message)
		})
	}
}

func TestCheckType_Rest(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	change := func(do func(*models.EventType)) models.EventType {
		et := typed("order.paid", `{"properties":{"id":{"type":"integer"}},"required":["id"]}`)
		do(&et)
		return et
	}
	tests := map[string]struct {
		eventType models.EventType
		code      models.ProblemCode
		path      string
	}{
		"fine":                {eventType: change(func(*models.EventType) {})},
		"fine with example":   {eventType: change(func(e *models.EventType) { e.Example = new(`{"id":1e2}`) })},
		"an existing name":    {eventType: change(func(e *models.EventType) { e.Name = "participant.created" })},
		"no name":             {change(func(e *models.EventType) { e.Name = "" }), models.CodeRequired, "name"},
		"one word":            {change(func(e *models.EventType) { e.Name = "order" }), models.CodeInvalid, "name"},
		"capitals":            {change(func(e *models.EventType) { e.Name = "Order.Paid" }), models.CodeInvalid, "name"},
		"line feed":           {change(func(e *models.EventType) { e.Name = "order.paid\n" }), models.CodeInvalid, "name"},
		"a star":              {change(func(e *models.EventType) { e.Name = "order.*" }), models.CodeInvalid, "name"},
		"long":                {change(func(e *models.EventType) { e.Name = "order." + strings.Repeat("x", 95) }), models.CodeTooLong, "name"},
		"reserved":            {change(func(e *models.EventType) { e.Name = "webhook.mine" }), models.CodeInvalid, "name"},
		"GraphQL name taken":  {change(func(e *models.EventType) { e.Name = "participant.profile.updated" }), models.CodeInvalid, "name"},
		"long title":          {change(func(e *models.EventType) { e.Title = strings.Repeat("é", 201) }), models.CodeTooLong, "title"},
		"long description":    {change(func(e *models.EventType) { e.Description = new(strings.Repeat("x", 2001)) }), models.CodeTooLong, "description"},
		"NUL in the title":    {change(func(e *models.EventType) { e.Title = "a\x00" }), models.CodeInvalid, "title"},
		"status":              {change(func(e *models.EventType) { e.Status = "GONE" }), models.CodeInvalid, "status"},
		"strict, no schema":   {change(func(e *models.EventType) { e.Strict, e.Schema = true, nil }), models.CodeRequired, "schema"},
		"example a list":      {change(func(e *models.EventType) { e.Example = new(`[]`) }), models.CodeInvalid, "example"},
		"example null":        {change(func(e *models.EventType) { e.Example = new(`null`) }), models.CodeInvalid, "example"},
		"example not JSON":    {change(func(e *models.EventType) { e.Example = new(`{"id":`) }), models.CodeInvalid, "example"},
		"example violates it": {change(func(e *models.EventType) { e.Example = new(`{"id":"x"}`) }), models.CodeSchemaViolation, "example"},
		"example too large":   {change(func(e *models.EventType) { e.Example = new(`{"id":1,"x":"` + strings.Repeat("x", 300<<10) + `"}`) }), models.CodeTooLarge, "example"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.CheckType(tt.eventType)
			if tt.code == "" {
				require.Empty(t, problems)
				return
			}
			p := only(t, problems)
			require.Equal(t, tt.code, p.Code)
			require.Equal(t, []string{tt.path}, p.Path)
		})
	}
}

const strictSchema = `{
  "type": "object",
  "required": ["id", "customer"],
  "additionalProperties": false,
  "properties": {
    "id": {"type": "integer", "maximum": 9007199254740993},
    "price": {"type": "number", "multipleOf": 0.01},
    "state": {"enum": ["new", "paid"]},
    "names": {"propertyNames": {"pattern": "^[a-z]+$"}},
    "more names": {"type": "object", "properties": {"of": {"propertyNames": {"maxLength": 1}}, "z": {"type": "string"}}},
    "a/b~c": {"type": "string"},
    "customer": {"type": "object", "required": ["email", "name"], "properties": {"email": {"type": "string", "minLength": 3, "pattern": "@"}}},
    "lines": {"type": "array", "maxItems": 2, "uniqueItems": true, "items": {"type": "object", "properties": {"sku": {"type": "string"}}}},
    "target": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["url"]}]},
    "tree": {"$ref": "#/$defs/node"}
  },
  "$defs": {"node": {"type": "object", "additionalProperties": false, "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}}
}`

func TestCheckData(t *testing.T) {
	t.Parallel()
	strict := typed("order.paid", strictSchema)
	strict.Strict = true
	c := newCatalogue(t, strict, typed("order.lax", strictSchema))
	rest := `"customer":{"email":"a@b","name":"x"}`
	tests := map[string]struct {
		data string
		want []string // pointer: message
	}{
		"fine":                    {data: `{"id":1,` + rest + `,"tree":{"next":{"next":{"value":3}}}}`},
		"whole in another form":   {data: `{"id":10e-1,` + rest + `}`},
		"exact at the bound":      {data: `{"id":9007199254740993,` + rest + `}`},
		"exact past the bound":    {`{"id":9007199254740994,` + rest + `}`, []string{"/id: must be at most 9007199254740993"}},
		"exact decimals":          {data: `{"id":1,"price":1.10,` + rest + `}`},
		"inexact decimals":        {`{"id":1,"price":1.101,` + rest + `}`, []string{"/price: must be a multiple of 1/100"}},
		"one problem a violation": {`{"id":"x","customer":{"email":"a"},"more":1}`, []string{`/customer: the field "name" is missing`, "/customer/email: must have at least 3 characters, not 1", `/customer/email: must match the pattern "@"`, "/id: must be of type integer, not string", "/more: the field is not allowed"}},
		"missing at the top":      {`{}`, []string{`: the field "customer" is missing`, `: the field "id" is missing`}},
		"escaped pointer":         {`{"id":1,"a/b~c":1,` + rest + `}`, []string{"/a~1b~0c: must be of type string, not number"}},
		"in a list":               {`{"id":1,"lines":[{"sku":"a"},{"sku":1}],` + rest + `}`, []string{"/lines/1/sku: must be of type string, not number"}},
		"of a list":               {`{"id":1,"lines":[{},{},{"sku":"x"}],` + rest + `}`, []string{"/lines: must have at most 2 elements, not 3", "/lines: must not have equal elements; 0 and 1 are"}},
		"alternatives":            {`{"id":1,"target":5,` + rest + `}`, []string{"/target: must match at least one of the schema's alternatives"}},
		"enum":                    {`{"id":1,"state":"secret",` + rest + `}`, []string{"/state: must be one of new, paid"}},
		"in a recursion":          {`{"id":1,"tree":{"next":{"next":{"value":"x"}}},` + rest + `}`, []string{"/tree/next/next/value: must be of type integer, not string"}},
		"a number past computing": {`{"id":1e999999999,` + rest + `}`, []string{"/id: the number is out of the range that can be checked"}},
		"very deep":               {`{"id":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, []string{": nests deeper than 500 levels"}},
		"names": {`{"names":{"ok":1,"N":2,"M":2},"more names":{"of":{"ab":1},"z":"z"},"id":1,` + rest + `}`, []string{
			"/more names/of/ab: the field's name is not allowed", "/names/M: the field's name is not allowed", "/names/N: the field's name is not allowed",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range c.CheckData("order.paid", tt.data) {
				require.Equal(t, models.CodeSchemaViolation, p.Code)
				require.Nil(t, p.Path)
				got = append(got, *p.Pointer+": "+p.Message)
			}
			require.Equal(t, tt.want, got)
			require.Empty(t, c.CheckData("order.lax", tt.data))
			require.Empty(t, c.CheckData("order.unknown", tt.data))
		})
	}
}

// A few lines of schema can ask for more checks than there are atoms; it has to end.
func TestCheckData_EndsWhateverTheSchemaAsksFor(t *testing.T) {
	t.Parallel()
	twice := typed("order.paid", `{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/c"}]},
		"b":{"properties":{"x":{"$ref":"#/$defs/a"}}},"c":{"properties":{"x":{"$ref":"#/$defs/a"}}}}}`)
	twice.Strict = true
	c := newCatalogue(t, twice)
	require.Empty(t, c.CheckData("order.paid", `{"x":{"x":{}}}`))
	deep := strings.Repeat(`{"x":`, 100) + "1" + strings.Repeat("}", 100)
	require.Contains(t, only(t, c.CheckData("order.paid", deep)).Message, "too much work")
	require.Empty(t, c.CheckData("order.paid", `{"x":{}}`))

	// Neither may what is derived from it be without end.
	require.Contains(t, c.SDL(), "type OrderPaid {")
	_, problems := c.CompileFilter("has(data.x.x.x)", []string{"order.paid"})
	require.Empty(t, problems)
}

func TestNew_KeepsATypeWhoseSchemaIsBroken(t *testing.T) {
	t.Parallel()
	broken := typed("order.paid", `{"type":`)
	broken.Strict = true
	c := newCatalogue(t, broken)
	require.Empty(t, c.CheckData("order.paid", `{}`))
	_, problems := c.CompileFilter("data.any == 1", []string{"order.paid"})
	require.Empty(t, problems)
	require.Equal(t, "OrderPaid", c.GraphQLType("order.paid"))
	require.Empty(t, c.GraphQLType("order.unknown"))
}

func TestWith_KeepsAndReplaces(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t, typed("order.paid", `{"properties":{"total":{"type":"number"}}}`))
	next, err := c.With(append(catalogue.Builtin(), typed("order.paid", `{"properties":{"sum":{"type":"number"}}}`)))
	require.NoError(t, err)
	for source, want := range map[string][2]bool{"data.total == 1": {true, false}, "data.sum == 1": {false, true}} {
		for i, cat := range []*catalogue.Catalogue{c, next} {
			for range 2 { // the second answer comes from the cache
				_, problems := cat.CompileFilter(source, []string{"order.paid"})
				require.Equal(t, want[i], len(problems) == 0, source)
			}
		}
	}
}
