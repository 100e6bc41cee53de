package app_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// location is a place in a text that was sent.
type location struct{ Line, Column int }

// placed is what is wrong and where.
type placed struct {
	Code      string
	Field     []string
	Locations []location
}

// Whatever no event could be matched or shaped with is refused when it is saved, with its code and
// the place of what is wrong.
func TestC2_BadSchemasAreRefusedWithTheirPlace(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	deep := strings.Repeat(`{"not":`, 150) + "{}" + strings.Repeat("}", 150)
	for schema, want := range map[string]location{
		`{"type":"objekt"}`:                          {1, 9},
		`{"$ref":"https://example.com/schema.json"}`: {1, 2},
		`{"$ref":"#"}`:                               {1, 9},
		`{"properties":{"reply":{"$ref":"#"}}}`:      {1, 32},
		`{"$ref":"#/$defs/n","$defs":{"n":{"items":{"$ref":"#/$defs/n"}}}}`:           {1, 51},
		`{"$dynamicAnchor":"n","properties":{"next":{"items":{"$dynamicRef":"#n"}}}}`: {1, 68},
		`["object"]`: {1, 1},
		`true`:       {1, 1},
		deep:         {1, 701},
	} {
		var out struct {
			UpsertEventType struct {
				EventType  *struct{ ID string }
				UserErrors []placed
			}
		}
		s.Query(t, `mutation($schema: JSON!) { upsertEventType(input: {name: "order.placed", schema: $schema}) {
			eventType { id } userErrors { code field locations { line column } } } }`,
			map[string]any{"schema": json.RawMessage(schema)}, &out)
		require.Nil(t, out.UpsertEventType.EventType)
		require.Equal(t, []placed{{"INVALID_SCHEMA", []string{"input", "schema"}, []location{want}}}, out.UpsertEventType.UserErrors, schema)
	}
	require.Equal(t, "UNKNOWN_EVENT_TYPE", tryEmit(t, s.Client, "order.placed", `{}`, nil).UserErrors[0].Code)

	// JSON that nests too deeply to be read at all is refused with the request.
	endless := strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000)
	for _, query := range []string{
		`mutation($json: JSON!) { upsertEventType(input: {name: "order.placed", schema: $json}) { userErrors { code } } }`,
		`mutation($json: JSON!) { emitEvent(input: {eventType: "participant.created", data: $json}) { userErrors { code } } }`,
	} {
		a, err := s.Post(t.Context(), query, map[string]any{"json": json.RawMessage(endless)})
		require.NoError(t, err)
		require.Equal(t, []string{"TOO_COMPLEX"}, a.Codes())
	}
}

// A subscription has no userErrors: what is wrong with its filter or payload query is told, with its
// place, in the extensions of the error.
func TestH5_BadArgumentsAreToldWithTheirPlace(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	for _, by := range []apptest.Transport{apptest.WebSocket, apptest.Events} {
		r := s.Follow(t, by, `subscription {
			eventEmitted(
				eventTypes: ["participant.created"]
				filter: "data.participant.emial == 'x'"
				payloadQuery: "subscription { event { ... on ParticipantCreated { participant { mail } } } }"
			) { cursor }
		}`, nil).Next(t)
		require.Equal(t, []string{"BAD_REQUEST"}, r.Codes())
		text, err := json.Marshal(r.Errors[0].Extensions["userErrors"])
		require.NoError(t, err)
		var got []placed
		require.NoError(t, json.Unmarshal(text, &got))
		require.Equal(t, []placed{
			{"INVALID_FILTER", []string{"filter"}, []location{{1, 18}}},
			{"INVALID_PAYLOAD_QUERY", []string{"payloadQuery"}, []location{{1, 66}}},
		}, got)
		require.Contains(t, string(text), `did you mean`)
		require.Contains(t, string(text), `{"column":18,"line":1}`)
	}
}
