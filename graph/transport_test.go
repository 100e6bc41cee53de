package graph_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const canary = "canary-4711-do-not-repeat"

func TestTransport(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const ok = `{"query":"{ __typename }"}`
	for name, tc := range map[string]struct {
		method  string
		headers map[string]string
		body    string
		status  int
		code    string
		header  map[string]string
	}{
		"json": {body: ok, status: 200, header: map[string]string{
			"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		}},
		"graphql-response": {
			body: ok, status: 200, headers: map[string]string{"Accept": "application/graphql-response+json"},
			header: map[string]string{"Content-Type": "application/graphql-response+json; charset=utf-8"},
		},
		"charset":               {body: ok, status: 200, headers: map[string]string{"Content-Type": `application/json; charset="UTF-8"`}},
		"another charset":       {body: ok, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Type": "application/json; charset=latin1"}},
		"a form":                {body: "query=" + canary, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
		"a text":                {body: ok, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Type": "text/plain"}},
		"multipart":             {body: ok, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}},
		"no content type":       {body: ok, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Type": ""}},
		"compressed":            {body: ok, status: 415, code: "BAD_REQUEST", headers: map[string]string{"Content-Encoding": "gzip"}},
		"GET":                   {method: http.MethodGet, status: 405, code: "BAD_REQUEST", header: map[string]string{"Allow": "POST"}},
		"PUT":                   {method: http.MethodPut, body: ok, status: 405, code: "BAD_REQUEST", header: map[string]string{"Allow": "POST"}},
		"no body":               {body: "", status: 400, code: "BAD_REQUEST"},
		"broken JSON":           {body: `{"query":"{ ` + canary, status: 400, code: "BAD_REQUEST"},
		"text after JSON":       {body: ok + canary, status: 400, code: "BAD_REQUEST"},
		"two values":            {body: ok + ok, status: 400, code: "BAD_REQUEST"},
		"a batch":               {body: `[` + ok + `]`, status: 400, code: "BAD_REQUEST"},
		"keys in capitals":      {body: `{"QUERY":"{ __typename }"}`, status: 400, code: "BAD_REQUEST"},
		"the same key twice":    {body: `{"query":"{ __typename }","query":"` + canary + `"}`, status: 400, code: "BAD_REQUEST"},
		"variables are a text":  {body: `{"query":"{ __typename }","variables":"` + canary + `"}`, status: 400, code: "BAD_REQUEST"},
		"parse error":           {body: `{"query":"{ a(b: \"` + canary + `\" "}`, status: 200, code: "GRAPHQL_PARSE_FAILED"},
		"parse error, GraphQL":  {body: `{"query":"{"}`, status: 400, code: "GRAPHQL_PARSE_FAILED", headers: map[string]string{"Accept": "application/graphql-response+json"}},
		"validation":            {body: `{"query":"{ nope }"}`, status: 200, code: "GRAPHQL_VALIDATION_FAILED"},
		"validation, GraphQL":   {body: `{"query":"{ nope }"}`, status: 400, code: "GRAPHQL_VALIDATION_FAILED", headers: map[string]string{"Accept": "application/graphql-response+json"}},
		"no operation":          {body: `{"query":"fragment a on Query { __typename }"}`, status: 200, code: "GRAPHQL_VALIDATION_FAILED"},
		"an empty document":     {body: `{"query":""}`, status: 200, code: "GRAPHQL_VALIDATION_FAILED"},
		"several operations":    {body: `{"query":"query a { __typename } query b { __typename }"}`, status: 200, code: "BAD_REQUEST"},
		"one of several":        {body: `{"query":"query a { __typename } query b { __typename }","operationName":"b"}`, status: 200},
		"an unknown operation":  {body: `{"query":"query a { __typename }","operationName":"` + canary + `"}`, status: 200, code: "BAD_REQUEST"},
		"a subscription":        {body: `{"query":"subscription { __typename }"}`, status: 200, code: "GRAPHQL_VALIDATION_FAILED"},
		"defer":                 {body: `{"query":"{ ... @defer { __typename } }"}`, status: 200, code: "GRAPHQL_VALIDATION_FAILED"},
		"a NUL in the document": {body: `{"query":"{ __typename \u0000 }"}`, status: 200, code: "GRAPHQL_PARSE_FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			method := tc.method
			if method == "" {
				method = http.MethodPost
			}
			r := f.request(t, method, f.admin, []byte(tc.body), tc.headers)
			assert.Equal(t, tc.status, r.status, r.body)
			if tc.code != "" {
				requireCode(t, r, tc.code)
				assert.NotContains(t, r.body, `"data"`)
			} else {
				assert.Empty(t, r.Errors)
				assert.JSONEq(t, `{"__typename":"Query"}`, string(r.Data))
			}
			for name, value := range tc.header {
				assert.Equal(t, value, r.header.Get(name))
			}
			assert.NotContains(t, r.body, canary)
			assert.NotContains(t, f.log.String(), canary)
		})
	}
}

func TestA1_WithoutAKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tc := range map[string]struct{ query, key string }{
		"a query":                    {query: "{ viewer { tenant } }"},
		"a mutation":                 {query: "mutation { __typename }"},
		"introspection":              {query: introspect},
		"introspection of a type":    {query: `{ __type(name: "Webhook") { name } }`},
		"beside __typename":          {query: "{ __typename viewer { tenant } }"},
		"in a fragment":              {query: "{ ...a } fragment a on Query { viewer { tenant } }"},
		"in an inline fragment":      {query: "{ ... { __typename } }"},
		"what is not in the schema":  {query: "{ nope }"},
		"an operation that is not":   {query: "query a { __typename } query b { __typename }"},
		"a wrong key":                {query: "{ viewer { tenant } }", key: "iwk_" + strings.Repeat("a", 40)},
		"a wrong key, introspection": {query: introspect, key: "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := f.do(t, tc.key, tc.query, nil)
			requireCode(t, r, "UNAUTHENTICATED")
			assert.Equal(t, http.StatusUnauthorized, r.status)
			assert.Equal(t, "Bearer", r.header.Get("WWW-Authenticate"))
			assert.NotContains(t, r.body, `"data"`)
		})
	}
	for _, query := range []string{"{ __typename }", "{ a: __typename b: __typename }", "query a { __typename }"} {
		r := f.do(t, "", query, nil)
		assert.Empty(t, r.Errors)
		assert.Equal(t, http.StatusOK, r.status)
	}
	// A document that a caller with a key made known is no way in.
	require.Empty(t, f.do(t, f.read, "{ viewer { scopes } }", nil).Errors)
	requireCode(t, f.do(t, "", "{ viewer { scopes } }", nil), "UNAUTHENTICATED")
}

func TestA1_RevokedKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	made := get[tree](t, f, f.admin, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [READ]}) { key apiKey { id revokedAt } userErrors { code } } }`, nil)
	key := made.text("createApiKey", "key")
	require.NotEmpty(t, key)
	require.Empty(t, f.do(t, key, "{ viewer { tenant } }", nil).Errors)
	revoked := get[tree](t, f, f.admin, `mutation($id: ID!) { revokeApiKey(id: $id) { apiKey { revokedAt } userErrors { code } } }`,
		variables{"id": made.text("createApiKey", "apiKey", "id")})
	assert.NotEmpty(t, revoked.text("revokeApiKey", "apiKey", "revokedAt"))
	requireCode(t, f.do(t, key, "{ viewer { tenant } }", nil), "UNAUTHENTICATED")
}

func TestA1_TooManyFailedLogins(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 500 {
		r := f.do(t, "iwk_nonsense", "{ viewer { tenant } }", nil)
		if r.status != http.StatusUnauthorized {
			e := requireCode(t, r, "RATE_LIMITED")
			assert.Equal(t, http.StatusTooManyRequests, r.status)
			assert.Positive(t, e.Extensions["retryAfterMs"])
			assert.NotEmpty(t, r.header.Get("Retry-After"))
			return
		}
	}
	t.Fatal("500 failed logins were all looked at")
}

func TestBadVariables(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const create = `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { userErrors { code } } }`
	for name, tc := range map[string]struct{ query, variables, message string }{
		"missing":              {create, `{}`, "$input: a value is required"},
		"null":                 {create, `{"input":null}`, "$input: it must not be null"},
		"not an object":        {create, `{"input":"` + canary + `"}`, "$input: expected an object of type CreateWebhookInput"},
		"an unknown key":       {create, `{"input":{"` + canary + `":1}}`, "$input: the object has a key that is no field of CreateWebhookInput"},
		"a folded key":         {create, `{"input":{"Name":"a"}}`, "$input: the object has a key that is no field of CreateWebhookInput"},
		"the same key twice":   {create, `{"input":{"name":"a","name":"b"}}`, "an object in the variables has the same key twice"},
		"a variable twice":     {create, `{"input":null,"input":null}`, "$input: it must not be null"},
		"a field is missing":   {create, `{"input":{"name":"a","eventTypes":[]}}`, "$input: targetUrl is required"},
		"a field is null":      {create, `{"input":{"name":null}}`, "$input.name: it must not be null"},
		"a number for a text":  {create, `{"input":{"name":4711}}`, "$input.name: expected a text"},
		"an entry is null":     {create, `{"input":{"name":"a","eventTypes":["a",null]}}`, "$input.eventTypes.1: it must not be null"},
		"an unknown enum":      {create, `{"input":{"signing":"` + canary + `"}}`, "$input.signing: expected one of the values of SigningScheme"},
		"an enum in lower":     {create, `{"input":{"signing":"ed25519"}}`, "$input.signing: expected one of the values of SigningScheme"},
		"an object for a URL":  {create, `{"input":{"targetUrl":{"a":"` + canary + `"}}}`, "$input.targetUrl: expected a text"},
		"a text for an Int":    {create, `{"input":{"rateLimitPerSecond":"` + canary + `"}}`, "$input.rateLimitPerSecond: expected a whole number"},
		"an Int past 32 bits":  {create, `{"input":{"rateLimitPerSecond":2147483648}}`, "$input.rateLimitPerSecond: an Int is a whole number of 32 bits"},
		"a fraction":           {create, `{"input":{"rateLimitPerSecond":1.5}}`, "$input.rateLimitPerSecond: an Int is a whole number of 32 bits"},
		"a bad Time":           {`query($t: Time) { deliveries(filter: {since: $t}) { nodes { id } } }`, `{"t":"` + canary + `"}`, "$t: a Time is a text in RFC 3339 form with a zone, e.g. 2026-03-01T12:00:00Z, in the years 0001 to 9999"},
		"a Time past 9999":     {`query($t: Time) { deliveries(filter: {since: $t}) { nodes { id } } }`, `{"t":"9999-12-31T23:59:59-01:00"}`, "$t: a Time is a text in RFC 3339 form with a zone, e.g. 2026-03-01T12:00:00Z, in the years 0001 to 9999"},
		"a Time without zone":  {`query($t: Time) { deliveries(filter: {since: $t}) { nodes { id } } }`, `{"t":"2026-03-01T12:00:00"}`, "$t: a Time is a text in RFC 3339 form with a zone, e.g. 2026-03-01T12:00:00Z, in the years 0001 to 9999"},
		"an object for an ID":  {`query($id: ID!) { event(id: $id) { id } }`, `{"id":{}}`, "$id: expected a text or a whole number"},
		"a fraction for an ID": {`query($id: ID!) { event(id: $id) { id } }`, `{"id":1.5}`, "$id: expected a text or a whole number"},
		"null for JSON!":       {emitAndRead, `{"data":null}`, "$data: it must not be null"},
		"a text for a Boolean": {`query($b: Boolean!) { __typename @include(if: $b) }`, `{"b":"true"}`, "$b: expected true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query := strings.NewReplacer("\n", " ", "\t", " ", `"`, `\"`).Replace(tc.query)
			r := f.post(t, f.admin, []byte(`{"query":"`+query+`","variables":`+tc.variables+`}`), nil)
			e := requireCode(t, r, "GRAPHQL_VALIDATION_FAILED")
			assert.Equal(t, tc.message, e.Message)
			assert.NotContains(t, r.body, canary)
			assert.NotContains(t, f.log.String(), canary)
		})
	}
}

func TestBadLiterals(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tc := range map[string]struct{ query, message string }{
		"a number for a text":   {`mutation { createWebhook(input: {name: 4711, targetUrl: "https://a.example", eventTypes: []}) { userErrors { code } } }`, "expected a value of type String"},
		"an unknown field":      {`mutation { createWebhook(input: {nope: 1, name: "a", targetUrl: "https://a.example", eventTypes: []}) { userErrors { code } } }`, `CreateWebhookInput has no field "nope"`},
		"a missing field":       {`mutation { createWebhook(input: {name: "a", eventTypes: []}) { userErrors { code } } }`, "CreateWebhookInput.targetUrl is required"},
		"null":                  {`mutation { createWebhook(input: {name: null, targetUrl: "https://a.example", eventTypes: []}) { userErrors { code } } }`, "expected a String!, found null"},
		"an unknown enum":       {`{ webhooks(filter: {status: CANARY}) { totalCount } }`, "expected one of the values of WebhookStatus"},
		"a text for an enum":    {`{ webhooks(filter: {status: "` + canary + `"}) { totalCount } }`, "expected one of the values of WebhookStatus"},
		"a text for an Int":     {`{ webhooks(first: "` + canary + `") { totalCount } }`, "expected a value of type Int"},
		"an Int past 32 bits":   {`{ webhooks(first: 2147483648) { totalCount } }`, "an Int is a whole number of 32 bits"},
		"a bad Time":            {`{ deliveries(filter: {since: "` + canary + `"}) { nodes { id } } }`, "a Time is a text in RFC 3339 form with a zone, e.g. 2026-03-01T12:00:00Z, in the years 0001 to 9999"},
		"an object for a URL":   {`mutation { createWebhook(input: {name: "a", targetUrl: {a: "` + canary + `"}, eventTypes: []}) { userErrors { code } } }`, "expected a value of type URL"},
		"a text for a Boolean":  {`{ __typename @include(if: "` + canary + `") }`, "expected a value of type Boolean"},
		"a list for an ID":      {`{ event(id: ["` + canary + `"]) { id } }`, "expected a value of type ID"},
		"a text for an object":  {`{ webhooks(filter: "` + canary + `") { totalCount } }`, "expected an object of type WebhookFilter"},
		"in a variable default": {`query($n: Int = "` + canary + `") { webhooks(first: $n) { totalCount } }`, "expected a value of type Int"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := f.do(t, f.admin, tc.query, nil)
			e := requireCode(t, r, "GRAPHQL_VALIDATION_FAILED")
			assert.Equal(t, tc.message, e.Message)
			assert.NotEmpty(t, e.Locations)
			assert.NotContains(t, r.body, canary)
			assert.NotContains(t, r.body, "CANARY")
		})
	}
}

// Lists take one value for a list of one; an Int may be written as 2e1; ids may be numbers.
func TestLenientCoercion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for query, vars := range map[string]string{
		`query($ids: [ID!]!) { nodes(ids: $ids) { id } }`:                            `{"ids":"x"}`,
		`query($id: ID!) { nodes(ids: [$id]) { id } }`:                               `{"id":4711}`,
		`query($n: Int) { webhooks(first: $n) { totalCount } }`:                      `{"n":2e1}`,
		`query($n: Int) { webhooks(last: $n) { totalCount } }`:                       `{"n":20.0}`,
		`{ nodes(ids: "x") { id } }`:                                                 `{}`,
		`query($x: Int) { webhooks(first: $x) { totalCount } }`:                      `{"x":null,"y":{"z":1}}`,
		`query($t: [String!]) { events(filter: {eventTypes: $t}) { nodes { id } } }`: `{"t":null}`,
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			r := f.post(t, f.read, []byte(`{"query":"`+strings.ReplaceAll(query, `"`, `\"`)+`","variables":`+vars+`}`), nil)
			assert.Empty(t, r.Errors, r.body)
		})
	}
}
