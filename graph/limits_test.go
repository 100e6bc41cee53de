package graph_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/graph"
)

func repeat(n int, format string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(format, "%", strconv.Itoa(i)))
		b.WriteByte(' ')
	}
	return b.String()
}

// introspect is the query that clients send to learn the schema.
const introspect = `query IntrospectionQuery { __schema { queryType { name kind } mutationType { name kind } subscriptionType { name kind }
	types { ...FullType } directives { name description isRepeatable locations args { ...InputValue } } } }
fragment FullType on __Type { kind name description specifiedByURL isOneOf
	fields(includeDeprecated: true) { name description args(includeDeprecated: true) { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason }
	inputFields(includeDeprecated: true) { ...InputValue } interfaces { ...TypeRef }
	enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } possibleTypes { ...TypeRef } }
fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue isDeprecated deprecationReason }
fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } } }`

// Each limit is met by one request just within it and refused by one just beyond.
func TestA4_Limits(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const (
		events = `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { matched } userErrors { code } } }`
		nodes  = `query($ids: [ID!]!) { nodes(ids: $ids) { id } }`
	)
	many := func(n int) variables {
		ids := make([]string, n)
		return variables{"ids": ids}
	}
	for name, tc := range map[string]struct {
		within, beyond       string
		withinVars, tooMany  variables
		code, message        string
		withinMayHaveAnError bool // one that a later check finds
	}{
		"tokens": {
			within: `{ viewer {` + repeat(11, "...{ "+strings.Repeat("tenant ", 175)+"}") + ` } }`, beyond: `{ viewer { ` + strings.Repeat("tenant ", 2001) + `} }`,
			code: "TOO_COMPLEX", message: "the document has more than 2000 tokens",
		},
		"tokens of literals in a query": {
			within: `{ nodes(ids: [` + strings.Repeat(`"a" `, 50) + `]) { id } }`, beyond: `{ nodes(ids: [` + strings.Repeat(`"a" `, 2000) + `]) { id } }`,
			code: "TOO_COMPLEX", message: "the document has more than 2000 tokens",
		},
		"tokens of literals in a mutation": {
			within: `mutation { emitEvent(input: {eventType: "message.sent", data: {a: [` + strings.Repeat("1 ", 50_000) + `]}}) { matched } }`,
			beyond: `mutation { emitEvent(input: {eventType: "message.sent", data: {a: [` + strings.Repeat("1 ", 100_000) + `]}}) { matched } }`,
			code:   "TOO_COMPLEX", message: "the literals in the document have more than 100000 tokens; pass data in variables",
		},
		"operations": {
			within: repeat(20, "query q% { __typename }"), beyond: repeat(21, "query q% { __typename }"),
			code: "TOO_COMPLEX", message: "the document has more than 20 operations", withinMayHaveAnError: true,
		},
		"fragments": {
			within: `{ viewer {` + repeat(50, "...f%") + `} }` + repeat(50, "fragment f% on Viewer { tenant }"),
			beyond: `{ viewer {` + repeat(51, "...f%") + `} }` + repeat(51, "fragment f% on Viewer { tenant }"),
			code:   "TOO_COMPLEX", message: "the document has more than 50 fragments",
		},
		"variables": {
			within: `query(` + repeat(100, "$v%: ID") + `) { ` + repeat(4, "...{ n%: nodes(ids: []) { id } }") + ` }`,
			beyond: `query(` + repeat(101, "$v%: ID") + `) { __typename }`,
			code:   "TOO_COMPLEX", message: "an operation has more than 100 variables", withinMayHaveAnError: true,
		},
		"selections in a set": {
			within: `{ viewer { ` + strings.Repeat("tenant ", 200) + `} }`, beyond: `{ viewer { ` + strings.Repeat("tenant ", 201) + `} }`,
			code: "TOO_COMPLEX", message: "a selection set has more than 200 selections",
		},
		"selections through fragments": {
			within: `{ viewer { ...a ...a } } fragment a on Viewer { ...b ...b ...b ...b } fragment b on Viewer { ` + strings.Repeat("tenant ", 190) + `}`,
			beyond: `{ viewer { ...a ...a ...a } } fragment a on Viewer { ...b ...b ...b ...b } fragment b on Viewer { ` + strings.Repeat("tenant ", 190) + `}`,
			code:   "TOO_COMPLEX", message: "an operation selects more than 2000 fields",
		},
		"doubling fragments": {
			within: `{ viewer { tenant } }`,
			beyond: `{ viewer { ...f0 } }` + doubling(49),
			code:   "TOO_COMPLEX", message: "an operation selects more than 2000 fields",
		},
		"root fields": {
			within: `{ ` + repeat(20, "a%: viewer { tenant }") + `}`, beyond: `{ ` + repeat(21, "a%: viewer { tenant }") + `}`,
			code: "TOO_COMPLEX", message: "an operation has more than 20 fields at its root",
		},
		"root fields through a fragment": {
			within: `{ ...r } fragment r on Query { ` + strings.Repeat("viewer { tenant } ", 20) + `}`,
			beyond: `{ ...r } fragment r on Query { ` + strings.Repeat("viewer { tenant } ", 21) + `}`,
			code:   "TOO_COMPLEX", message: "an operation has more than 20 fields at its root",
		},
		"aliases": {
			within: `{ viewer { ` + repeat(50, "a%: tenant") + `} }`, beyond: `{ viewer { ` + repeat(51, "a%: tenant") + `} }`,
			code: "TOO_COMPLEX", message: "an operation uses more than 50 aliases",
		},
		"directives": {
			within: `{ viewer { ` + strings.Repeat("tenant @include(if: true) ", 50) + `} }`,
			beyond: `{ viewer { ` + strings.Repeat("tenant @include(if: true) ", 51) + `} }`,
			code:   "TOO_COMPLEX", message: "the document has more than 50 directives",
		},
		"depth": {
			within: `{ delivery(id: "x") ` + strings.Repeat("{ webhook { deliveries(first: 1) { nodes ", 4) + `{ id }` + strings.Repeat("} } } ", 4) + `}`,
			beyond: `{ delivery(id: "x") ` + strings.Repeat("{ webhook { deliveries(first: 1) { nodes ", 5) + `{ id }` + strings.Repeat("} } } ", 5) + `}`,
			code:   "TOO_COMPLEX", message: "an operation nests more than 15 fields deep",
		},
		"depth of introspection": {
			within: introspect,
			beyond: `{ __type(name: "Query") ` + strings.Repeat("{ ofType ", 20) + "{ name }" + strings.Repeat(" }", 20) + `}`,
			code:   "TOO_COMPLEX", message: "introspection nests more than 20 fields deep",
		},
		"complexity with a page's size": {
			within: `{ deliveries(first: 100) { nodes { event { data } webhook { id name } attempts { number } } } }`,
			beyond: `{ deliveries(first: 100) { nodes { event { deliveries(first: 100) { nodes { id webhook { id name } } } } } } }`,
			code:   "TOO_COMPLEX", message: "the answer may have more than 50000 fields; ask for smaller pages or fewer fields",
		},
		"complexity with a size in a variable": {
			within:     `query($n: Int) { deliveries(last: $n) { nodes { event { deliveries(first: 100) { nodes { id webhook { id name } } } } } } }`,
			withinVars: variables{"n": 10},
			beyond:     `query($n: Int) { deliveries(last: $n) { nodes { event { deliveries(first: 100) { nodes { id webhook { id name } } } } } } }`,
			tooMany:    variables{"n": 100},
			code:       "TOO_COMPLEX", message: "the answer may have more than 50000 fields; ask for smaller pages or fewer fields",
		},
		"complexity of pages in pages": {
			within: `{ webhooks(first: 20) { nodes { deliveries(first: 20) { nodes { id } } } } }`,
			beyond: `{ webhooks(first: 100) { nodes { deliveries(first: 100) { nodes { id eventType status attemptCount } } } } }`,
			code:   "TOO_COMPLEX", message: "the answer may have more than 50000 fields; ask for smaller pages or fewer fields",
		},
		"complexity of repeated introspection": {
			within: `{ a: __schema { description } }`,
			beyond: `{ ` + repeat(11, "a%: __schema { description }") + ` }`,
			code:   "TOO_COMPLEX", message: "the answer may have more than 50000 fields; ask for smaller pages or fewer fields",
		},
		"complexity of a batch": {
			within:     `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { matched event { id data } } userErrors { code } } }`,
			beyond:     `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { deliveries(first: 100) { nodes { id webhook { id name } attempts { id } } } } } }`,
			withinVars: variables{"inputs": make([]map[string]any, 0)},
			tooMany:    variables{"inputs": batch(100)},
			code:       "TOO_COMPLEX", message: "the answer may have more than 50000 fields; ask for smaller pages or fewer fields",
		},
		"lists in variables": {
			within: nodes, withinVars: many(100), beyond: nodes, tooMany: many(1001),
			code: "TOO_COMPLEX", message: "$ids: a list in the arguments has more than 1000 entries",
		},
		"lists in literals": {
			within: `mutation { createWebhook(input: {name: "a", targetUrl: "https://a.example", eventTypes: ["*"], retrySchedule: [` + strings.Repeat(`"PT1S" `, 50) + `]}) { userErrors { code } } }`,
			beyond: `mutation { createWebhook(input: {name: "a", targetUrl: "https://a.example", eventTypes: [` + strings.Repeat(`"a" `, 1001) + `]}) { userErrors { code } } }`,
			code:   "TOO_COMPLEX", message: "a list in the arguments has more than 1000 entries",
		},
		"cycles of fragments": {
			within: `{ viewer { ...a } } fragment a on Viewer { tenant }`,
			beyond: `{ viewer { ...a } } fragment a on Viewer { ...b } fragment b on Viewer { ...a }`,
			code:   "GRAPHQL_VALIDATION_FAILED", message: `the fragment "a" contains itself`,
		},
		"nesting of the body": {
			within: events, withinVars: variables{"inputs": []any{}, "x": nested(500)},
			beyond: events, tooMany: variables{"inputs": []any{}, "x": nested(511)},
			code: "TOO_COMPLEX", message: "the body nests too deeply",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := f.do(t, f.admin, tc.within, tc.withinVars)
			for _, e := range r.Errors {
				assert.NotEqual(t, tc.message, e.Message, "within the limit")
				assert.Truef(t, tc.withinMayHaveAnError, "within the limit: %s", e.Message)
			}
			start := time.Now()
			r = f.do(t, f.admin, tc.beyond, tc.tooMany)
			e := requireCode(t, r, tc.code)
			assert.Equal(t, tc.message, e.Message)
			assert.Less(t, time.Since(start), 5*time.Second)
		})
	}
}

// doubling is a chain of fragments each of which spreads the next one twice.
func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "fragment f%d on Viewer { ...f%d ...f%d } ", i, i+1, i+1)
	}
	fmt.Fprintf(&b, "fragment f%d on Viewer { tenant }", n)
	return b.String()
}

func batch(n int) []map[string]any {
	inputs := make([]map[string]any, n)
	for i := range inputs {
		inputs[i] = map[string]any{"eventType": "message.sent", "data": map[string]any{}}
	}
	return inputs
}

func nested(depth int) any {
	var v any = []any{}
	for range depth - 1 {
		v = []any{v}
	}
	return v
}

func TestA4_ValidationErrorsAreCut(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r := f.do(t, f.admin, `{ viewer { `+repeat(150, "nope%")+`} }`, nil)
	require.Len(t, r.Errors, 20)
	for _, e := range r.Errors {
		assert.Equal(t, "GRAPHQL_VALIDATION_FAILED", e.Extensions["code"])
	}
}

func TestE3_BodyLimit(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Limits.BodyBytes, o.Limits.AnonymousBytes = 100_000, 1_000 })
	body := func(n int) []byte {
		head := `{"query":"{ __typename }","variables":{"x":"`
		return []byte(head + strings.Repeat("y", n-len(head)-3) + `"}}`)
	}
	r := f.post(t, f.admin, body(100_000), nil)
	assert.Empty(t, r.Errors)

	r = f.post(t, f.admin, body(100_001), nil)
	assert.Equal(t, http.StatusRequestEntityTooLarge, r.status)
	requireCode(t, r, "PAYLOAD_TOO_LARGE")

	t.Run("without a key", func(t *testing.T) {
		t.Parallel()
		assert.Empty(t, f.post(t, "", body(1_000), nil).Errors)
		r := f.post(t, "", body(1_001), nil)
		assert.Equal(t, http.StatusUnauthorized, r.status)
		requireCode(t, r, "UNAUTHENTICATED")
	})
	t.Run("without a length", func(t *testing.T) {
		t.Parallel()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url, struct{ *strings.Reader }{strings.NewReader(string(body(100_001)))})
		require.NoError(t, err)
		req.ContentLength = -1
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+f.admin)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	})
}

// A client that sends all of its body before it reads gets to know what is wrong with it.
func TestE3_TheAnswerToATooLargeBodyArrives(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Limits.BodyBytes, o.Limits.AnonymousBytes = 8<<20, 1_000 })
	address := strings.TrimPrefix(f.url, "http://")
	host, path, _ := strings.Cut(address, "/")
	send := func(t *testing.T, key string, size int, expect string) int {
		t.Helper()
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		head := fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n%s\r\n",
			path, host, key, size, expect)
		_, err = io.WriteString(conn, head)
		require.NoError(t, err)
		if expect == "" {
			_, err = conn.Write(bytes.Repeat([]byte{' '}, size))
			require.NoError(t, err, "all of the body is taken")
		}
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		return r.StatusCode
	}
	require.Equal(t, http.StatusRequestEntityTooLarge, send(t, f.admin, 15<<20, ""))
	require.Equal(t, http.StatusUnauthorized, send(t, "x", 900<<10, ""))
	// Who asks before is told before.
	require.Equal(t, http.StatusRequestEntityTooLarge, send(t, f.admin, 15<<20, "Expect: 100-continue\r\n"))
}

// The cache of documents is bounded, and what it holds answers the same again.
func TestCachedDocuments(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Limits.CachedDocuments = 2 })
	for range 3 {
		for i := range 5 {
			query := fmt.Sprintf("query($n: Int = %d) { webhooks(first: $n) { totalCount } viewer { tenant } }", i)
			r := f.do(t, f.read, query, nil)
			require.Empty(t, r.Errors)
			assert.JSONEq(t, `{"webhooks":{"totalCount":0},"viewer":{"tenant":"acme"}}`, string(r.Data))
		}
	}
	requireCode(t, f.do(t, "", "query($n: Int = 4) { webhooks(first: $n) { totalCount } viewer { tenant } }", nil), "UNAUTHENTICATED")
}
