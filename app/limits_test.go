package app_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// Each bound of a request has a setting, and its error says how much is allowed.
func TestA4_EveryLimitIsASetting(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, map[string]string{
		"MAX_BODY_BYTES": "3000", "MAX_BODY_DEPTH": "8", "MAX_QUERY_TOKENS": "60", "MAX_QUERY_OPERATIONS": "2", "MAX_QUERY_FRAGMENTS": "3",
		"MAX_QUERY_VARIABLES": "4", "MAX_QUERY_DIRECTIVES": "5", "MAX_QUERY_DEPTH": "6", "MAX_QUERY_ALIASES": "7", "MAX_QUERY_FIELDS": "15",
		"MAX_QUERY_FIELDS_PER_SET": "9", "MAX_QUERY_ROOT_FIELDS": "2", "MAX_QUERY_COMPLEXITY": "500", "MAX_LIST_INPUT": "12",
		"QUERY_CACHE": "1", "MAX_SUBSCRIPTIONS": "1",
	})
	for name, tc := range map[string]struct {
		body, code, message string
	}{
		"MAX_BODY_BYTES":           {query(`{ viewer { tenant } }` + strings.Repeat(" ", 3000)), "PAYLOAD_TOO_LARGE", "the body has more than 3000 bytes"},
		"MAX_BODY_DEPTH":           {`{"query":"{ viewer { tenant } }","variables":` + strings.Repeat(`{"a":`, 8) + `1` + strings.Repeat("}", 8) + `}`, "TOO_COMPLEX", "the body nests too deeply"},
		"MAX_QUERY_TOKENS":         {query(`{ viewer { ` + strings.Repeat("tenant ", 60) + `} }`), "TOO_COMPLEX", "the document has more than 60 tokens"},
		"MAX_QUERY_OPERATIONS":     {query(`query a { __typename } query b { __typename } query c { __typename }`), "TOO_COMPLEX", "the document has more than 2 operations"},
		"MAX_QUERY_FRAGMENTS":      {query(`{ ...a } ` + strings.Repeat("fragment a on Query { __typename } ", 4)), "TOO_COMPLEX", "the document has more than 3 fragments"},
		"MAX_QUERY_VARIABLES":      {query(`query($a: Int $b: Int $c: Int $d: Int $e: Int) { __typename }`), "TOO_COMPLEX", "an operation has more than 4 variables"},
		"MAX_QUERY_DIRECTIVES":     {query(`{ viewer { tenant ` + strings.Repeat("@skip(if: true) ", 6) + `} }`), "TOO_COMPLEX", "the document has more than 5 directives"},
		"MAX_QUERY_DEPTH":          {query(`{ a { a { a { a { a { a { a } } } } } } }`), "TOO_COMPLEX", "an operation nests more than 6 fields deep"},
		"MAX_QUERY_ALIASES":        {query(`{ viewer { a: tenant b: tenant c: tenant d: tenant } viewer { e: tenant f: tenant g: tenant h: tenant } }`), "TOO_COMPLEX", "an operation uses more than 7 aliases"},
		"MAX_QUERY_FIELDS":         {query(`{ viewer { ` + strings.Repeat("tenant ", 8) + `} viewer { ` + strings.Repeat("tenant ", 8) + `} }`), "TOO_COMPLEX", "an operation selects more than 15 fields"},
		"MAX_QUERY_FIELDS_PER_SET": {query(`{ viewer { ` + strings.Repeat("tenant ", 10) + `} }`), "TOO_COMPLEX", "a selection set has more than 9 selections"},
		"MAX_QUERY_ROOT_FIELDS":    {query(`{ __typename __typename __typename }`), "TOO_COMPLEX", "an operation has more than 2 fields at its root"},
		"MAX_QUERY_COMPLEXITY":     {query(`{ webhooks(first: 100) { nodes { id name tenant status version } } }`), "TOO_COMPLEX", "the answer may have more than 500 fields; ask for smaller pages or fewer fields"},
		"MAX_LIST_INPUT":           {`{"query":"query($i: [ID!]!) { nodes(ids: $i) { id } }","variables":{"i":[` + strings.Repeat("1,", 12) + `1]}}`, "TOO_COMPLEX", "$i: a list in the arguments has more than 12 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := server.PostRaw(t.Context(), []byte(tc.body))
			require.NoError(t, err)
			require.Equal(t, []string{tc.code}, a.Codes(), "%s", a.Body)
			assert.Equal(t, tc.message, a.Errors[0].Message)
		})
	}
	// One subscription is open, and a second is one too many.
	server.Follow(t, apptest.Events, `subscription { eventEmitted { cursor } }`, nil)
	second := server.Follow(t, apptest.Events, `subscription { deliveryUpdated { cursor } }`, nil)
	r := second.Next(t)
	require.Equal(t, []string{"RATE_LIMITED"}, r.Codes())
	assert.Equal(t, "this key has 1 subscriptions open, the most that there may be", r.Errors[0].Message)
}

// A WebSocket without an operation ends after STREAM_IDLE, and any stream after STREAM_LIFETIME.
func TestA4_TheTimesOfStreamsAreSettings(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, map[string]string{"STREAM_IDLE": "10ms", "STREAM_LIFETIME": "200ms"})
	socket, err := server.Dial(t.Context(), nil)
	require.NoError(t, err)
	_, err = socket.Receive()
	require.ErrorContains(t, err, "no operation for a long time")
	require.NoError(t, socket.Close())
	s := server.Follow(t, apptest.Events, `subscription { eventEmitted { cursor } }`, nil)
	require.ErrorIs(t, s.Next(t).Lost, io.EOF)
}

func query(text string) string { return `{"query":"` + text + `"}` }
