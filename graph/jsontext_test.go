package graph

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseRequest(t *testing.T) {
	t.Parallel()
	const q = `"query":"{ __typename }"`
	for name, tc := range map[string]struct {
		body string
		want request
		err  string
	}{
		"all parts": {
			body: `{"query":"{ a }","operationName":"X","variables":{"a":1.10},"extensions":{}}`,
			want: request{query: "{ a }", operationName: "X", variables: []byte(`{"a":1.10}`)},
		},
		"nulls":                      {body: `{` + q + `,"operationName":null,"variables":null,"extensions":null}`, want: request{query: "{ __typename }"}},
		"unknown keys":               {body: `{` + q + `,"id":{"a":[1,2]}}`, want: request{query: "{ __typename }"}},
		"escapes":                    {body: `{"query":"{\n\u0061 \ud83d\ude00}"}`, want: request{query: "{\na 😀}"}},
		"white space":                {body: " \t\r\n{ " + q + " } \n", want: request{query: "{ __typename }"}},
		"keys are not folded":        {body: `{"Query":"{ a }"}`, err: `the body has no "query"`},
		"a folded key beside":        {body: `{"QUERY":"{ b }",` + q + `}`, want: request{query: "{ __typename }"}},
		"the same key twice":         {body: `{` + q + `,` + q + `}`, err: errDuplicateKey.Error()},
		"twice by an escape":         {body: `{` + q + `,"\u0071uery":"{ b }"}`, err: errDuplicateKey.Error()},
		"twice among many":           {body: `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"i":2,` + q + `}`, err: errDuplicateKey.Error()},
		"text after the value":       {body: `{` + q + `} {}`, err: errTrailing.Error()},
		"a NUL after the value":      {body: `{` + q + "}\x00", err: errTrailing.Error()},
		"a batch":                    {body: `[{` + q + `}]`, err: "the body must be one request, not a list of them"},
		"a text":                     {body: `"query"`, err: "the body must be a JSON object"},
		"nothing":                    {body: ``, err: errNotJSON.Error()},
		"no query":                   {body: `{}`, err: `the body has no "query"`},
		"query is a number":          {body: `{"query":1}`, err: `"query" must be a text`},
		"query is null":              {body: `{"query":null}`, err: `"query" must be a text`},
		"operationName is a number":  {body: `{` + q + `,"operationName":1}`, err: `"operationName" must be a text or null`},
		"variables are a list":       {body: `{` + q + `,"variables":[]}`, err: `"variables" must be an object or null`},
		"extensions are a text":      {body: `{` + q + `,"extensions":""}`, err: `"extensions" must be an object or null`},
		"nope instead of null":       {body: `{` + q + `,"variables":nope}`, err: errNotJSON.Error()},
		"broken":                     {body: `{"query":"secret`, err: errNotJSON.Error()},
		"a line feed in a text":      {body: "{\"query\":\"a\nb\"}", err: errNotJSON.Error()},
		"not UTF-8":                  {body: "{\"query\":\"\xff\"}", err: errNotUTF8.Error()},
		"an overlong encoding":       {body: "{\"query\":\"\xc0\xaf\"}", err: errNotUTF8.Error()},
		"an encoded surrogate":       {body: "{\"query\":\"\xed\xa0\x80\"}", err: errNotUTF8.Error()},
		"a leading zero":             {body: `{` + q + `,"variables":{"a":01}}`, err: errNotJSON.Error()},
		"a number without digits":    {body: `{` + q + `,"variables":{"a":-}}`, err: errNotJSON.Error()},
		"a point without digits":     {body: `{` + q + `,"variables":{"a":1.}}`, err: errNotJSON.Error()},
		"an exponent without digits": {body: `{` + q + `,"variables":{"a":1e+}}`, err: errNotJSON.Error()},
		"a comma at the end":         {body: `{` + q + `,}`, err: errNotJSON.Error()},
		"an odd escape":              {body: `{"query":"\x41"}`, err: errNotJSON.Error()},
		"as deep as allowed":         {body: `{` + q + `,"variables":{"a":` + strings.Repeat("[", 18) + strings.Repeat("]", 18) + `}}`, want: request{query: "{ __typename }", variables: []byte(`{"a":` + strings.Repeat("[", 18) + strings.Repeat("]", 18) + `}`)}},
		"too deep":                   {body: `{` + q + `,"variables":{"a":` + strings.Repeat("[", 19) + strings.Repeat("]", 19) + `}}`, err: errTooDeep.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := parseRequest([]byte(tc.body), 20)
			if tc.err != "" {
				require.EqualError(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, r)
		})
	}
}

// The scanner takes exactly what encoding/json takes, as far as it is UTF-8 and not too deep, and
// returns it as it is.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2.50e+10,true,false,null,"\u00e9\ud83d\ude00<&>"]}`, `[]`, `{}`, `"`, `01`, `-`, `[1,]`, "\"\xff\"", ` 1 `, `tru`, `{"a" 1}`, `{"a":1,}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := scanner{text: text, maxDepth: 100}
		value, err := s.value()
		if err == nil {
			err = s.end()
		}
		if err == errTooDeep { //nolint:errorlint // it is never wrapped
			return
		}
		valid := json.Valid(text) && utf8.Valid(text)
		if valid != (err == nil) {
			t.Fatalf("%q: json says %v, the scanner %v", text, valid, err)
		}
		if err == nil && string(value) != strings.Trim(string(text), " \t\r\n") {
			t.Fatalf("%q came back as %q", text, value)
		}
		if err == nil && value[0] == '"' {
			var want string
			if json.Unmarshal(value, &want) != nil || unquote(value) != want {
				t.Fatalf("%q: unquoted to %q", value, unquote(value))
			}
		}
	})
}

func TestNegotiate(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":                                  typeJSON,
		"*/*":                               typeJSON,
		"application/json":                  typeJSON,
		"text/html":                         typeJSON,
		"application/graphql-response+json": typeGraphQL,
		"application/graphql-response+json; charset=utf-8, application/json;q=.9": typeGraphQL,
		"application/graphql-response+json;q=0.5, application/json":               typeJSON,
		"application/graphql-response+json;q=0":                                   typeJSON,
		"application/graphql-response+json;q=x":                                   typeJSON,
		"application/json, application/graphql-response+json":                     typeGraphQL,
	} {
		t.Run(accept, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, want, negotiate([]string{accept}))
		})
	}
	assert.Equal(t, typeGraphQL, negotiate([]string{"text/html", typeGraphQL}))
}

func TestParseErrorsQuoteNoData(t *testing.T) {
	t.Parallel()
	limits := Limits{}
	limits.setDefaults(100)
	d := documents{limits: &limits}
	for name, query := range map[string]string{
		"a text where none belongs":   `{ a "canary" }`,
		"a block text":                `{ a """canary "quoted" canary""" }`,
		"a number":                    `{ a 47110815 }`,
		"an open text":                `{ a(b: "canary`,
		"an odd escape":               `{ a(b: "\qcanary") }`,
		"an odd unicode escape":       `{ a(b: "\ucana") }`,
		"an odd braced escape":        `{ a(b: "\u{canary}") }`,
		"a number that is none":       `{ a(b: 0471108) }`,
		"a character outside":         `{ a(b: ?canary) }`,
		"a control character":         "{ a(b: \"\x01canary\") }",
		"a text instead of a keyword": `"canary" "canary"`,
		"a text that is no document":  `canary {{{`,
		"a name after the document":   `{ a } canary`,
		"a name instead of a bracket": `query a canary { a }`,
		"a name instead of a colon":   `mutation { a(b: {c canary}) }`,
		"a name instead of on":        `fragment a canary b { a }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, errs := d.parse(query)
			require.Len(t, errs, 1)
			assert.Equal(t, codeParseFailed, codeOf(errs[0]))
			assert.NotContains(t, errs[0].Message, "cana")
			assert.NotContains(t, errs[0].Message, "4711")
			assert.NotContains(t, errs[0].Message, "1108")
		})
	}
}
