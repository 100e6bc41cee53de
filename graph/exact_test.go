package graph_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const emitAndRead = `mutation($data: JSON!) {
	emitEvent(input: {eventType: "message.sent", data: $data}) { event { data } userErrors { code message } }
}`

// dataIn is the exact text of the data in the answer to an emit.
func dataIn(t testing.TB, r response) string {
	t.Helper()
	require.Emptyf(t, r.Errors, "%s", r.body)
	var v struct {
		EmitEvent struct {
			Event      *struct{ Data json.RawMessage }
			UserErrors []any
		}
	}
	require.NoError(t, json.Unmarshal(r.Data, &v))
	require.Emptyf(t, v.EmitEvent.UserErrors, "%s", r.body)
	require.Contains(t, r.body, `"data":`+string(v.EmitEvent.Event.Data), "the answer holds the text as it is")
	return string(v.EmitEvent.Event.Data)
}

func TestE6_DataKeepsItsText(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, data := range map[string]string{
		"digits":      `{"a":1.10,"b":0.1000000000000000055511151231257827,"c":1E400,"d":-0,"e":1e-7,"f":100000000000000000000}`,
		"2^63":        `{"n":9223372036854775808,"m":-9223372036854775809}`,
		"key order":   `{"z":1,"a":{"y":2,"b":3},"m":4}`,
		"html":        `{"a":"<b>&amp;</b>","b":"\u003cb\u003e"}`,
		"escapes":     `{"a":"\u00e9é\/\"\\\b\f\n\r\t\u2028"}`,
		"emoji":       `{"a":"😀","b":"\ud83d\ude00"}`,
		"empty":       `{}`,
		"nested":      `{"a":[[],[{}],[[1.0]]]}`,
		"odd keys":    `{"":1," ":2,"a.b":3,"__typename":4,"é":5}`,
		"deep":        `{"a":` + strings.Repeat("[", 400) + strings.Repeat("]", 400) + `}`,
		"like a name": `{"literal 0":"$data"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, data, dataIn(t, f.do(t, f.emit, emitAndRead, variables{"data": json.RawMessage(data)})))
			input := `{"eventType":"message.sent","data":` + data + `}`
			assert.Equal(t, data, dataIn(t, f.do(t, f.emit, `mutation($input: EmitEventInput!) {
				emitEvent(input: $input) { event { data } userErrors { code message } } }`, variables{"input": json.RawMessage(input)})))
		})
	}
}

func TestE6_InlineDataKeepsItsText(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tc := range map[string]struct{ literal, want string }{
		"digits":        {`{a: 1.10, b: 0.1000000000000000055511151231257827, c: 1E400, d: -0, e: 9223372036854775807}`, `{"a":1.10,"b":0.1000000000000000055511151231257827,"c":1E400,"d":-0,"e":9223372036854775807}`},
		"key order":     {`{z: 1, a: {y: 2, b: 3}}`, `{"z":1,"a":{"y":2,"b":3}}`},
		"html":          {`{a: "<b>&amp;</b>"}`, `{"a":"<b>&amp;</b>"}`},
		"escapes":       {`{a: "\"\\\n\u00e9"}`, `{"a":"\"\\\né"}`},
		"a block":       {`{a: """ one "two" """}`, `{"a":" one \"two\" "}`},
		"constants":     {`{a: true, b: false, c: null, d: [], e: {}}`, `{"a":true,"b":false,"c":null,"d":[],"e":{}}`},
		"nested lists":  {`{a: [[1, 2.0], [{b: 3.00}]]}`, `{"a":[[1,2.0],[{"b":3.00}]]}`},
		"odd separator": {"{a:1,,,b:2 # a comment\n}", `{"a":1,"b":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query := `mutation { emitEvent(input: {eventType: "message.sent", data: ` + tc.literal + `}) { event { data } userErrors { code message } } }`
			assert.Equal(t, tc.want, dataIn(t, f.do(t, f.emit, query, nil)))
			assert.Equal(t, tc.want, dataIn(t, f.do(t, f.emit, `mutation($data: JSON! = `+tc.literal+`) {
				emitEvent(input: {eventType: "message.sent", data: $data}) { event { data } userErrors { code message } } }`, nil)), "as a default")
			assert.Equal(t, tc.want, dataIn(t, f.do(t, f.emit, `mutation($input: EmitEventInput! = {eventType: "message.sent", data: `+tc.literal+`}) {
				emitEvent(input: $input) { event { data } userErrors { code message } } }`, nil)), "inside a default")
		})
	}
}

func TestE6_VariablesInsideInlineData(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := f.do(t, f.emit, `mutation($s: String, $n: Int, $f: Float, $b: Boolean, $j: JSON, $none: String, $null: String, $list: [Int!]) {
		emitEvent(input: {eventType: "message.sent", data: {s: $s, n: $n, f: $f, b: $b, j: $j, none: $none, null: $null, l: [$n, $none], list: $list}}) {
			event { data } userErrors { code message }
		}
	}`, variables{"s": "<é>", "n": 7, "f": json.RawMessage("1.10"), "b": true, "j": json.RawMessage(`{"b":1.00,"a":2}`), "null": nil, "list": []int{1, 2}})
	assert.JSONEq(t, `{"s":"<é>","n":7,"f":1.10,"b":true,"j":{"b":1.00,"a":2},"null":null,"l":[7,null],"list":[1,2]}`, dataIn(t, r))
	assert.Contains(t, r.body, `"f":1.10,"b":true,"j":{"b":1.00,"a":2}`)
}

func TestE6_InlineIntegerPast64Bits(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := f.do(t, f.emit, `mutation { emitEvent(input: {eventType: "message.sent", data: {n: 9223372036854775808}}) { event { id } } }`, nil)
	e := requireCode(t, r, "GRAPHQL_VALIDATION_FAILED")
	assert.NotContains(t, e.Message, "9223372036854775808")
	assert.Equal(t, []map[string]int{{"line": 1, "column": 67}}, e.Locations)
}

func TestJSONLiteralsAreRefusedWhereTheyAreNoJSON(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, literal := range map[string]string{
		"an enum value":     `{a: CANARY}`,
		"the same key":      `{a: 1, a: 2}`,
		"null for data":     `null`,
		"too deep":          `{a: ` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`,
		"an unset variable": `$missing`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := f.do(t, f.emit, `mutation { emitEvent(input: {eventType: "message.sent", data: `+literal+`}) { event { id } } }`, nil)
			require.NotEmpty(t, r.Errors)
			assert.NotContains(t, r.body, "CANARY")
			assert.Contains(t, []any{"GRAPHQL_VALIDATION_FAILED", "TOO_COMPLEX"}, r.Errors[0].Extensions["code"])
		})
	}
}

// jsonValue draws a JSON value as text, in its compact form.
func jsonValue(t *rapid.T, depth int) string {
	kinds := 5
	if depth > 0 {
		kinds = 7
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "word")
	case 1:
		return strconv.FormatInt(rapid.Int64().Draw(t, "integer"), 10)
	case 2:
		return fmt.Sprintf("%d.%s", rapid.Int32().Draw(t, "whole"), rapid.StringMatching(`[0-9]{1,20}`).Draw(t, "fraction"))
	case 3:
		return fmt.Sprintf("%d%s%d", rapid.Int8().Draw(t, "mantissa"), rapid.SampledFrom([]string{"e", "E+", "e-"}).Draw(t, "exponent"), rapid.Uint8().Draw(t, "power"))
	case 4:
		return jsonString(t)
	case 5:
		parts := make([]string, rapid.IntRange(0, 4).Draw(t, "length"))
		for i := range parts {
			parts[i] = jsonValue(t, depth-1)
		}
		return "[" + strings.Join(parts, ",") + "]"
	default:
		return jsonObject(t, depth-1)
	}
}

func jsonString(t *rapid.T) string {
	var b strings.Builder
	b.WriteByte('"')
	for range rapid.IntRange(0, 6).Draw(t, "characters") {
		b.WriteString(rapid.SampledFrom([]string{
			"a", "é", "😀", `\u00e9`, `\ud83d\ude00`, "<", "&", `\"`, `\\`, `\/`, `\n`, "\u2028", "$x", "{", "#", `\u0001`,
		}).Draw(t, "character"))
	}
	b.WriteByte('"')
	return b.String()
}

func jsonObject(t *rapid.T, depth int) string {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z_][a-z0-9_]{0,5}`), 0, 4, rapid.ID[string]).Draw(t, "names")
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = strconv.Quote(name) + ":" + jsonValue(t, depth)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestE6_AnyDataComesBackDigitForDigit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	rapid.Check(t, func(rt *rapid.T) {
		data := jsonObject(rt, 4)
		got := dataIn(t, f.do(t, f.emit, emitAndRead, variables{"data": json.RawMessage(data)}))
		if got != data {
			rt.Fatalf("through a variable: %s came back as %s", data, got)
		}
		// The same value is a GraphQL literal once the quotes around its keys are gone.
		literal := unquoteKeys(data)
		got = dataIn(t, f.do(t, f.emit, `mutation { emitEvent(input: {eventType: "message.sent", data: `+literal+`}) { event { data } userErrors { code message } } }`, nil))
		if tokens(rt, got) != tokens(rt, data) {
			rt.Fatalf("inline: %s came back as %s", data, got)
		}
	})
}

// unquoteKeys turns compact JSON whose keys are names into a GraphQL literal.
func unquoteKeys(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '"' {
			b.WriteByte(text[i])
			continue
		}
		end := i + 1
		for text[end] != '"' {
			if text[end] == '\\' {
				end++
			}
			end++
		}
		if end+1 < len(text) && text[end+1] == ':' {
			b.WriteString(text[i+1 : end])
		} else {
			b.WriteString(text[i : end+1])
		}
		i = end
	}
	return b.String()
}

// tokens is a JSON text with its strings by their characters, and all else as it is written.
func tokens(t *rapid.T, text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var b strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		fmt.Fprintf(&b, "%T %v\n", token, token)
	}
	if d.More() {
		t.Fatalf("not JSON: %s", text)
	}
	return b.String()
}
