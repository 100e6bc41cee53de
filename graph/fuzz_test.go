package graph

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/graph/generated"
)

// requireNoBody fails where an error repeats what the caller sent. What is short may be in it by chance.
func requireNoBody(t *testing.T, err error, body []byte) {
	t.Helper()
	if len(body) > 40 {
		require.NotContains(t, err.Error(), string(body))
	}
}

// A body that is taken as a request says the same to encoding/json.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"query":"{ a }","operationName":"X","variables":{"a":1.10},"extensions":{}}`, `[{"query":"{ a }"}]`, `{"query":null}`, `{"query":"a","query":"b"}`,
		`{"Query":"a"}`, `{"query":"\ud800"}`, `{"query":"a"} x`, `null`, ``, `{"query":"a","variables":[]}`, `{"query":"a","variables":{"x":` + strings.Repeat("[", 40),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRequest(body, 64)
		if err != nil {
			requireNoBody(t, err, body)
			return
		}
		var want struct {
			Query         *string
			OperationName string
			Variables     json.RawMessage
		}
		// Only the exact names: encoding/json folds their case.
		var members map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &members))
		require.NoError(t, json.Unmarshal(members["query"], &want.Query))
		require.Equal(t, *want.Query, r.query)
		if text := members["operationName"]; text != nil {
			require.NoError(t, json.Unmarshal(text, &want.OperationName))
		}
		require.Equal(t, want.OperationName, r.operationName)
		if len(r.variables) > 0 {
			require.JSONEq(t, string(members["variables"]), string(r.variables))
		}
	})
}

// Whatever comes over a WebSocket is read or refused, and so are the credentials in it.
func FuzzMessage(f *testing.F) {
	for _, seed := range []string{
		`{"type":"connection_init","payload":{"Authorization":"Bearer x"}}`, `{"type":"subscribe","id":"1","payload":{"query":"{ a }"}}`, `{"type":"ping"}`,
		`{"type":5}`, `{"id":null}`, `{"type":"a","type":"b"}`, `[]`, `{"payload":null}`, `{"payload":{"authorization":1}}`, "\xff", ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMessage(text, 64)
		if err != nil {
			requireNoBody(t, err, text)
			return
		}
		require.True(t, json.Valid(text) && utf8.Valid(text))
		if len(m.payload) > 0 {
			require.True(t, json.Valid(m.payload))
			if _, err := credentials(m.payload, 64); err != nil {
				requireNoBody(t, err, m.payload)
			}
			if _, err := parseRequest(m.payload, 64); err != nil {
				requireNoBody(t, err, m.payload)
			}
		}
		require.True(t, json.Valid(writeMessage("pong", m.id, m.payload)), "what is sent back is JSON")
	})
}

// A document is prepared or refused with a code, whatever it says, and what is refused quotes no text of it.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{ viewer { tenant } }`, `query($n: Int = 5, $f: DeliveryFilter) { deliveries(first: $n, filter: $f) { nodes { id ...a } } } fragment a on Delivery { status }`,
		`mutation { emitEvent(input: {eventType: "a.b", data: {a: [1.10, "x", null, {b: true}]}}) { matched userErrors { code } } }`,
		`mutation($d: JSON!) { emitEvent(input: {eventType: "a.b", data: {a: $d}}) { matched } }`, `subscription { eventEmitted(filter: "true") { cursor } }`,
		`{ __schema { types { name } } }`, `{ a`, `"""`, `{ webhook(id: "\u{10FFFF}") { id } }`, `{ ...a } fragment a on Query { ...a }`, `{ viewer @skip(if: 1) { tenant } }`,
	} {
		f.Add(seed, `{"n":1,"d":{"x":[1e400]},"f":{"statuses":["PENDING"]}}`)
	}
	limits := Limits{}
	limits.setDefaults(100)
	schema := withoutDefer(generated.NewExecutableSchema(generated.Config{}).Schema())
	d := newDocuments(schema, &limits)
	f.Fuzz(func(t *testing.T, query, variables string) {
		refused := func(errs gqlerror.List) bool {
			for _, e := range errs {
				require.Contains(t, []string{codeParseFailed, codeValidationFailed, codeTooComplex}, codeOf(e))
				require.LessOrEqual(t, len(e.Message), 2*maxMessage)
			}
			return len(errs) > 0
		}
		parsed, errs := d.parse(query)
		if refused(errs) {
			return
		}
		doc, errs := d.validate(t.Context(), query, parsed)
		if refused(errs) {
			return
		}
		text := []byte(variables)
		s := scanner{text: text, maxDepth: 64}
		if value, err := s.value(); err != nil || s.end() != nil || !bytes.HasPrefix(value, []byte("{")) {
			return // the body would not have been taken
		}
		for _, op := range doc.Operations {
			values := map[string]any{}
			doc.bindConstants(values)
			if err := limits.readVariables(schema, op, text, values); err != nil {
				refused(gqlerror.List{err})
				continue
			}
			if doc.bindOthers(values) == nil {
				if err := limits.checkComplexity(op, values); err != nil {
					refused(gqlerror.List{err})
				}
			}
		}
	})
}

// The type of an answer is one of ours, whatever a caller says that it takes.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"", "*/*", typeGraphQL + ";q=0.5, " + typeJSON, typeEvents, "a/b;q=NaN", ";;;", `application/json; q="1"`, strings.Repeat(",", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		require.Contains(t, []string{typeJSON, typeGraphQL}, negotiate([]string{accept}))
		some, only := wantsEvents([]string{accept})
		require.True(t, some || !only)
		if only {
			require.NotEqual(t, typeGraphQL, negotiate([]string{accept}))
		}
	})
}
