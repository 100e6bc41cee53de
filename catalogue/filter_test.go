package catalogue_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

const orderSchema = `{
  "type": "object",
  "properties": {
    "id": {"type": "integer"},
    "total": {"type": "number"},
    "note": {"type": ["string", "null"]},
    "paid": {"type": "boolean"},
    "customer": {"type": "object", "properties": {"email": {"type": "string"}, "first-name": {"type": "string"}}},
    "lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}, "price": {"type": "number"}}}},
    "extra": {"type": "object", "properties": {"known": {"type": "string"}}, "additionalProperties": true},
    "anything": {}
  }
}`

const orderData = `{"id":9007199254740993,"total":10,"note":null,"paid":true,"customer":{"email":"Ada@Example.com","first-name":"Ada"},` +
	`"lines":[{"sku":"a","price":1.0},{"sku":"b","price":2.5}],"extra":{"known":"x","other":[1,2]},"anything":{"deep":{"big":18446744073709551615,"huge":1e400,"half":0.5}}}`

func TestFilter_Decides(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t, typed("order.paid", orderSchema))
	tests := map[string]bool{
		// Numbers are JSON's: equal is what is the same number.
		`data.id == 9007199254740993`:                          true,
		`data.id == 9007199254740992`:                          false,
		`data.id > 9007199254740992`:                           true,
		`data.total == 10.0`:                                   true,
		`data.total == 10`:                                     true,
		`data.lines[0].price == 1`:                             true,
		`data.lines[0].price in [1, 7]`:                        true,
		`data.lines[1].price > 2 && data.lines[1].price < 3`:   true,
		`data.total / 4 == 2.5`:                                true,
		`data.total * 1.5 == 15`:                               true,
		`data.total - 0.5 + 0.5 == 10`:                         true,
		`data.total % 3 == 1`:                                  true,
		`-data.total == -10`:                                   true,
		`data.anything.deep.big == 18446744073709551615u`:      true,
		`data.anything.deep.big > 9223372036854775807`:         true,
		`data.anything.deep.huge > 1e300`:                      true,
		`data.anything.deep.half == 0.5`:                       true,
		`data.total == data.total && data.lines == data.lines`: true,
		// Texts.
		`data.customer.email.lowerAscii() == "ada@example.com"`: true,
		`data.customer.email.startsWith("Ada")`:                 true,
		`data.customer.email.endsWith(".org")`:                  false,
		`data.customer.email.contains("@")`:                     true,
		`data.customer.email.matches("^[A-Z][a-z]+@.*\\.com$")`: true,
		`size(data.customer.email) == 15`:                       true,
		"data.customer.`first-name` == \"Ada\"":                 true,
		// Presence and null.
		`data.note == null`:    true,
		`has(data.note)`:       true,
		`has(data.extra.nope)`: false,
		`has(data.extra.other) && data.extra.other[1] == 2`: true,
		`!has(data.extra.nope) || data.extra.nope == 1`:     true,
		// Macros.
		`data.lines.exists(l, l.sku == "b" && l.price > 2)`: true,
		`data.lines.all(l, l.price > 1)`:                    false,
		`data.lines.exists_one(l, l.price > 2.0)`:           true,
		// The envelope.
		`type == "order.paid" && id.startsWith("evt_")`:                   true,
		`timestamp > timestamp("2026-01-01T00:00:00Z")`:                   true,
		`timestamp - timestamp("2026-03-14T08:26:53Z") == duration("1h")`: true,
		`timestamp + duration("1h") > timestamp`:                          true,
		`timestamp.getDayOfWeek() == 6`:                                   true,
		`timestamp.getHours("Europe/Berlin") == 10`:                       true,
		// Logic: a false clause decides whatever its neighbours' errors.
		`data.extra.nope == 1 && false`:                false,
		`data.extra.nope == 1 || true`:                 true,
		`data.paid`:                                    true,
		`!data.paid`:                                   false,
		`data.paid ? data.total > 5 : data.total > 50`: true,
	}
	for source, want := range tests {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			f, problems := c.CompileFilter(source, []string{"order.paid"})
			require.Empty(t, problems)
			pass, detail, err := f.Pass(catalogue.NewSubject(event("order.paid", orderData)))
			require.NoError(t, err)
			require.Equal(t, want, pass)
			require.Equal(t, want, detail == "")
		})
	}
}

func TestFilter_SaysWhichClauseWasFalse(t *testing.T) {
	t.Parallel()
	f, problems := newCatalogue(t).CompileFilter(`type != "x" && (data.a == 1 && data.b.exists(x, x > 3)) && data.c`, []string{"*"})
	require.Empty(t, problems)
	_, detail, err := f.Pass(catalogue.NewSubject(event("a.b", `{"a":1,"b":[1,2],"c":true}`)))
	require.NoError(t, err)
	require.Equal(t, "The clause data.b.exists(x, x > 3) was false.", detail)
}

func TestFilter_FailsAtRunTime(t *testing.T) {
	t.Parallel()
	list := "[" + strings.TrimSuffix(strings.Repeat("1,", 20_000), ",") + "]"
	tests := map[string]struct{ source, data, message string }{
		"missing field":    {`data.a.b == 1`, `{"a":{}}`, "the event has no field b (ask with has() first) in data.a.b == 1"},
		"missing parent":   {`has(data.a.b)`, `{}`, "no field a"},
		"of a text":        {`data.a.b == 1`, `{"a":"x"}`, "of a kind"},
		"order of kinds":   {`data.a > 1`, `{"a":"x"}`, "of a kind"},
		"sum of texts":     {`data.a + data.a == "xx"`, `{"a":"x"}`, "of a kind"},
		"sum of lists":     {`size(data.a + data.a) == 2`, `{"a":[1]}`, "of a kind"},
		"division by zero": {`data.a / 0 == 1`, `{"a":1}`, "division by zero"},
		"not a boolean":    {`data.a`, `{"a":1}`, "not bool"},
		"null":             {`data.a.startsWith("x")`, `{"a":null}`, "of a kind"},
		"two long loops":   {`data.a.all(x, data.a.exists(y, y == 2) || true)`, `{"a":` + list + `}`, "the filter "},
		"deep comparisons": {`data.a.all(x, data == data)`, `{"a":` + list + `}`, "the filter "},
		"long text":        {`data.a.matches("x+y")`, `{"a":"` + strings.Repeat("x", 20_000) + `"}`, "at most 16384 bytes"},
		"not an object":    {`data.a == 1`, `[]`, "not a JSON object"},
		"not JSON":         {`data.a == 1`, `{"a":`, "not a JSON object"},
	}
	c := newCatalogue(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, problems := c.CompileFilter(tt.source, []string{"*"})
			require.Empty(t, problems)
			pass, _, err := f.Pass(catalogue.NewSubject(event("a.b", tt.data)))
			require.False(t, pass)
			require.ErrorContains(t, err, tt.message)
		})
	}
}

func TestCompileFilter_Refuses(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t, typed("order.paid", orderSchema), typed("order.open", `{"properties":{"due":{"type":"string"}}}`))
	tests := map[string]struct {
		source  string
		message string
		at      models.Location
	}{
		"unknown field":        {`data.totl > 1`, `did you mean "total"?`, models.Location{Line: 1, Column: 6}},
		"unknown nested field": {"true &&\n  data.customer.emial == 'x'", `did you mean "email"?`, models.Location{Line: 2, Column: 17}},
		"unknown in a loop":    {`data.lines.exists(l, l.skuu == 'x')`, `did you mean "sku"?`, models.Location{Line: 1, Column: 24}},
		"unknown in has":       {`has(data.custmer)`, `did you mean "customer"?`, models.Location{Line: 1, Column: 10}},
		"unknown variable":     {`dat.total > 1`, `did you mean "data"?`, models.Location{Line: 1, Column: 1}},
		"unknown function":     {`data.note.startWith('x')`, `did you mean "startsWith"?`, models.Location{Line: 1, Column: 20}},
		"syntax":               {`data.total >`, "", models.Location{Line: 1, Column: 13}},
		"not a condition":      {`data.note`, "of type string", models.Location{Line: 1, Column: 5}},
		"a number":             {`data.total + 1`, "of type number", models.Location{Line: 1, Column: 12}},
		"one clause of two":    {`true && data.total + 1`, "", models.Location{Line: 1, Column: 20}},
		"kinds":                {`data.note == 1`, "== does not take string, int", models.Location{Line: 1, Column: 11}},
		"joined texts":         {`data.note + 'x' == 'y'`, "not for texts and lists", models.Location{Line: 1, Column: 11}},
		"joined lists":         {`size([1] + [2]) == 2`, "not for texts and lists", models.Location{Line: 1, Column: 10}},
		"map":                  {`data.lines.map(l, l.sku) == []`, "map() is not offered", models.Location{Line: 1, Column: 15}},
		"filter":               {`size(data.lines.filter(l, true)) > 1`, "filter() is not offered", models.Location{Line: 1, Column: 23}},
		"bytes":                {`bytes(data.note) == b'x'`, `"bytes" is not known`, models.Location{Line: 1, Column: 6}},
		"bad pattern":          {`data.note.matches('(')`, "missing closing )", models.Location{Line: 1, Column: 19}},
		"bad backreference":    {`data.note.matches('(a)\\1')`, "invalid escape", models.Location{Line: 1, Column: 19}},
		"large pattern":        {`data.note.matches('a{900}')`, "too complex", models.Location{Line: 1, Column: 19}},
		"computed pattern":     {`data.note.matches(data.customer.email)`, "written out", models.Location{Line: 1, Column: 32}},
		"three loops":          {`data.lines.all(a, data.lines.all(b, data.lines.all(c, a.sku == b.sku || c.sku == 'x')))`, "loops too much", models.Location{Line: 1, Column: 15}},
		"bad time":             {`timestamp > timestamp('yesterday')`, "", models.Location{Line: 1, Column: 23}},
		"unknown by its name":  {`data['totl'] == 1`, `did you mean "total"?`, models.Location{Line: 1, Column: 7}},
		"unknown in brackets":  {`data.customer[ "emial" ] == 'x'`, `did you mean "email"?`, models.Location{Line: 1, Column: 17}},
		"unknown among names":  {`'emial' in data.customer`, `did you mean "email"?`, models.Location{Line: 1, Column: 9}},
		"unknown in two loops": {`data.customer.all(k, data.lines.exists(l, l.skuu == k))`, `did you mean "sku"?`, models.Location{Line: 1, Column: 45}},
		"name of a list":       {`data.lines['sku'] == 'x'`, "[] takes", models.Location{Line: 1, Column: 11}},
		"null and unknown":     {`data.lines[0].skuu == null`, `did you mean "sku"?`, models.Location{Line: 1, Column: 15}},
		"data itself":          {`data`, "of type object", models.Location{Line: 1, Column: 1}},
		"past 64 bits":         {`data.id == 18446744073709551616`, "with an exponent", models.Location{Line: 1, Column: 12}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := c.CompileFilter(tt.source, []string{"order.paid", "order.open"})
			require.NotEmpty(t, problems)
			require.Equal(t, models.CodeInvalidFilter, problems[0].Code)
			require.Contains(t, problems[0].Message, tt.message)
			require.Equal(t, []models.Location{tt.at}, problems[0].Locations, problems[0].Message)
			require.NotContains(t, problems[0].Message, "wrapper(")
		})
	}
}

func TestCompileFilter_RefusesAsAWhole(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	deep := strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500)
	tests := map[string]struct {
		source string
		code   models.ProblemCode
		at     []models.Location
	}{
		"empty":    {" \n", models.CodeInvalidFilter, []models.Location{{Line: 1, Column: 1}}},
		"too long": {strings.Repeat(" ", 4096) + "true", models.CodeTooLong, nil},
		"NUL":      {"true\n\x00", models.CodeInvalidFilter, []models.Location{{Line: 2, Column: 1}}},
		"no UTF-8": {"\"\xff\" == \"\"", models.CodeInvalidFilter, []models.Location{{Line: 1, Column: 2}}},
		"deep":     {deep, models.CodeInvalidFilter, []models.Location{{Line: 1, Column: 1}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := c.CompileFilter(tt.source, []string{"*"})
			require.NotEmpty(t, problems)
			require.Equal(t, tt.code, problems[0].Code)
			require.Equal(t, tt.at, problems[0].Locations)
		})
	}
}

func TestCompileFilter_KnowsFieldsWhereItCan(t *testing.T) {
	t.Parallel()
	plain := models.EventType{Name: "note.made", Title: "Note", Status: models.EventTypeActive}
	c := newCatalogue(t, typed("order.paid", orderSchema), typed("order.open", `{"properties":{"due":{"type":"string"},"note":{"type":"integer"}}}`), plain)
	tests := map[string]struct {
		source   string
		patterns []string
		ok       bool
	}{
		"of either type":              {`has(data.due) || has(data.total)`, []string{"order.paid", "order.open"}, true},
		"of neither type":             {`has(data.nope)`, []string{"order.paid", "order.open"}, false},
		"of the other type":           {`has(data.due)`, []string{"order.paid"}, false},
		"of two kinds":                {`data.note == 1 || data.note == "x"`, []string{"order.paid", "order.open"}, true},
		"types may come later":        {`has(data.nope)`, []string{"order.*"}, true},
		"one pattern is enough":       {`has(data.nope)`, []string{"order.paid", "invoice.*"}, true},
		"any":                         {`has(data.nope)`, []string{"*"}, true},
		"without a schema":            {`has(data.nope)`, []string{"note.made"}, true},
		"extra fields are expected":   {`data.extra.nope == 1`, []string{"order.paid"}, true},
		"beside those that are known": {`data.extra.known == 1`, []string{"order.paid"}, false},
		"of unknown form":             {`data.anything.you.like == 1`, []string{"order.paid"}, true},
		"by its name":                 {`data["customer"]["email"] == "x" && data["lines"][0]["sku"] == "x"`, []string{"order.paid"}, true},
		"that no filter can spell":    {"data.customer[\"first-name\"] == \"Ada\" && data.customer.`first-name` == \"Ada\"", []string{"order.paid"}, true},
		"by a name from data":         {`data.customer[data.note] == "x"`, []string{"order.paid"}, true},
		"among names":                 {`"email" in data.customer && data.note in data.customer`, []string{"order.paid"}, true},
		"counted":                     {`size(data.customer) == 2 && data.customer.size() == 2`, []string{"order.paid"}, true},
		"name by name":                {`data.customer.all(k, k != "x" && data.customer[k] != null)`, []string{"order.paid"}, true},
		"of the entries of a list":    {`data.lines.all(l, "sku" in l && l["sku"] != "" && size(l) == 2)`, []string{"order.paid"}, true},
		"lists may be null":           {`data.lines != null && null != data.lines && data.lines[0] != null`, []string{"order.paid"}, true},
		"hidden by a loop":            {`[1, 2].exists(data, data == 1)`, []string{"order.paid"}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := c.CompileFilter(tt.source, tt.patterns)
			require.Equal(t, tt.ok, len(problems) == 0, problems)
		})
	}
}

// Simple clauses are decided without CEL's interpreter; behind a ternary the same clause is not.
func TestFilter_SimpleClausesDecideAsCEL(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	literals := []string{"1", "1.0", "-3", "0.5", "9007199254740993", "18446744073709551615u", `"a"`, `""`, "true", "null", "1e300"}
	values := []string{"1", "1.0", "1e0", "-3", "0.5", "9007199254740993", "9007199254740993.0", "18446744073709551615", "18446744073709551616", "1e400", `"a"`, `""`, "true", "false", "null", "[1]", `{"b":1}`, `{"b":"a"}`, `{"b":null}`}
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.SampledFrom([]string{"data.a", "data.a.b", "data.a.b.c", "data.missing", "id", "type"}).Draw(t, "path")
		literal := rapid.SampledFrom(literals).Draw(t, "literal")
		operator := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">="}).Draw(t, "operator")
		clause := rapid.SampledFrom([]string{
			path + operator + literal, literal + operator + path, "has(data.a)", "has(data.a.b)", "has(data.a.b.c)", "!" + path, path,
			path + " in [" + literal + ",7,\"z\"]", "!(" + path + operator + literal + ")",
		}).Draw(t, "clause")
		data := `{"a":` + rapid.SampledFrom(values).Draw(t, "value") + `}`

		fast, problems := c.CompileFilter(clause, []string{"*"})
		slow, problemsToo := c.CompileFilter("true ? ("+clause+") : false", []string{"*"})
		require.Equal(t, len(problems) == 0, len(problemsToo) == 0, "%v %v", problems, problemsToo)
		if len(problems) > 0 {
			return
		}
		pass, _, err := fast.Pass(catalogue.NewSubject(event("a", data)))
		passToo, _, errToo := slow.Pass(catalogue.NewSubject(event("a", data)))
		require.Equal(t, errToo == nil, err == nil, "%v %v", err, errToo)
		require.Equal(t, passToo, pass)
	})
}

// Whole numbers that fit are compared digit by digit, however they are written.
func TestFilter_ComparesNumbersExactly(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64().Draw(t, "a")
		b := rapid.OneOf(rapid.Just(a), rapid.Just(a^1), rapid.Int64()).Draw(t, "b")
		form := rapid.SampledFrom([]string{"%d", "%d.0", "%de0", "%d.000"}).Draw(t, "form")
		f, problems := c.CompileFilter("data.a == data.b", []string{"*"})
		require.Empty(t, problems)
		data := fmt.Sprintf(`{"a":%d,"b":`+form+`}`, a, b)
		pass, _, err := f.Pass(catalogue.NewSubject(event("a", data)))
		require.NoError(t, err)
		require.Equal(t, a == b, pass, data)
	})
}

// However a filter is built of what passes the checks, one evaluation is cut off before it has
// done much work or filled the memory.
func TestFilter_IsBoundedInWorkAndMemory(t *testing.T) {
	c := newCatalogue(t)
	data := `{"a":[` + strings.TrimSuffix(strings.Repeat(`"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",`, 7_000), ",") + `],"s":"` + strings.Repeat("x", 16_000) + `"}`
	for _, source := range []string{
		`data.a.all(x, data.a.all(y, x == y))`,
		`data.a.all(x, !x.matches("(x+x+)+y|x{50}") && !data.s.matches("y"))`,
		`data.a.all(x, data.s.contains(x))`,
		`data.a.all(x, data == data)`,
		`data.a.all(x, data.a in [data.a])`,
		strings.TrimSuffix(strings.Repeat(`data.s.matches("(x+x+)+y") || `, 100), " || "),
		strings.TrimSuffix(strings.Repeat(`data.a.all(x, data.s.contains(x)) && `, 50), " && "),
	} {
		f, problems := c.CompileFilter(source, []string{"*"})
		require.Empty(t, problems, source)
		s := catalogue.NewSubject(event("a.b", data))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := f.Pass(s)
		runtime.ReadMemStats(&after)
		require.ErrorContains(t, err, "the filter ", "%s", source)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<20), "%s", source)
	}
}

// Numbers that a filter writes are as exact as those in data.
func TestFilter_ComparesWrittenNumbersExactly(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	for source, want := range map[string]bool{
		`data.n == 9007199254740992.0`:                          false,
		`data.n > 9007199254740992.0`:                           true,
		`data.n <= 9.007199254740992e15`:                        false,
		`data.n in [9007199254740992.0]`:                        false,
		`true ? data.n == 9007199254740992.0 : false`:           false,
		`[9007199254740992.0].exists(x, x == data.n)`:           false,
		`data.n == 9007199254740994.0 - 1`:                      true,
		`data.u == 18446744073709551615u`:                       true,
		`data.u < 18446744073709555712.0`:                       true,
		`data.u > 9223372036854775808.0`:                        true,
		`data.neg == -9223372036854775808.0`:                    true,
		`data.one == 1.0 && data.one in [1.0] && 1.0 == 1`:      true,
		`data.one == 1.5 || data.one > 0.99999`:                 true,
		`data.half == 0.5 && data.half < 1.0 && 1.0 / 2 == 0.5`: true,
	} {
		f, problems := c.CompileFilter(source, []string{"*"})
		require.Empty(t, problems, source)
		pass, _, err := f.Pass(catalogue.NewSubject(event("a.b", `{"n":9007199254740993,"u":18446744073709551615,"neg":-9223372036854775808,"one":1,"half":0.5}`)))
		require.NoError(t, err, source)
		require.Equal(t, want, pass, source)
	}
}
