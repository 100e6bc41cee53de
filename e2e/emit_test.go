package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// E4: the answers are in the order of the inputs, and so are the events. Of two inputs under one
// idempotency key the first is the event.
func TestE4_ABatchIsTakenInItsOrder(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		const batches, size = 10, 30
		for round := range batches {
			inputs := make([]map[string]any, size)
			for n := range inputs {
				inputs[n] = message(map[string]any{"n": n})
			}
			key := fmt.Sprint("key ", round)
			inputs[size-3]["idempotencyKey"] = key
			inputs[size-2] = map[string]any{"eventType": "message.sent", "data": map[string]any{"n": size - 3}, "idempotencyKey": key}
			inputs[size-1]["idempotencyKey"] = key
			var out struct{ EmitEvents struct{ Results []emitted } }
			server.Query(t, `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { event { id } duplicate matched userErrors { code message field } } } }`,
				map[string]any{"inputs": inputs}, &out)
			results := out.EmitEvents.Results
			require.Len(t, results, size)
			require.False(t, results[size-3].Duplicate, "the first under the key")
			require.True(t, results[size-2].Duplicate)
			require.Equal(t, results[size-3].Event.ID, results[size-2].Event.ID)
			require.Nil(t, results[size-1].Event)
			require.Equal(t, []userError{{
				Code: "IDEMPOTENCY_MISMATCH", Field: []string{"inputs", strconv.Itoa(size - 1), "idempotencyKey"}, Message: results[size-1].UserErrors[0].Message,
			}}, results[size-1].UserErrors)

			var list struct {
				Events struct{ Nodes []struct{ ID string } }
			}
			server.Query(t, `query($n: Int!) { events(first: $n) { nodes { id } } }`, map[string]any{"n": size - 2}, &list)
			slices.Reverse(list.Events.Nodes)
			for n, e := range list.Events.Nodes {
				require.Equal(t, results[n].Event.ID, e.ID, "newest first")
			}
		}
	})
}

// E2: what counts is what the body says as JSON, with the digits of its numbers.
func TestE2_TheSameBodyIsTheSameJSON(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		for name, test := range map[string]struct {
			first, second string
			duplicate     bool
		}{
			"white space":            {`{"a":1}`, "{\n\t\"a\" : 1 }", true},
			"keys in another order":  {`{"a":1,"b":{"c":[1,2],"d":null}}`, `{"b":{"d":null,"c":[1,2]},"a":1}`, true},
			"escapes":                {`{"é":"<😀"}`, `{"\u00e9":"\u003c\ud83d\uDE00"}`, true},
			"a list in other order":  {`{"a":[1,2]}`, `{"a":[2,1]}`, false},
			"other digits":           {`{"a":1.1}`, `{"a":1.10}`, false},
			"a text, not a number":   {`{"a":1}`, `{"a":"1"}`, false},
			"one key more":           {`{"a":1}`, `{"a":1,"b":null}`, false},
			"one level more":         {`{"a":{"b":1},"c":2}`, `{"a":{"b":1,"c":2}}`, false},
			"half a surrogate pair":  {`{"a":"\ud800"}`, `{"a":"\ufffd"}`, false},
			"an escaped escape mark": {`{"a":"\\u00e9"}`, `{"a":"\u00e9"}`, false},
		} {
			key, err := json.Marshal(name)
			require.NoError(t, err)
			var answers [2]emitted
			for n, data := range []string{test.first, test.second} {
				var out struct{ EmitEvent emitted }
				body, err := json.Marshal(map[string]any{
					"query":     `mutation($data: JSON!, $key: String!) { emitEvent(input: {eventType: "message.sent", data: $data, idempotencyKey: $key}) { event { id } duplicate userErrors { code message field } } }`,
					"variables": map[string]any{"data": "DATA", "key": json.RawMessage(key)},
				})
				require.NoError(t, err)
				// Put in as text: encoding/json would write it anew.
				a, err := server.PostRaw(t.Context(), []byte(strings.Replace(string(body), `"DATA"`, data, 1)))
				require.NoError(t, err)
				require.Empty(t, a.Errors, name)
				require.NoError(t, json.Unmarshal(a.Data, &out))
				answers[n] = out.EmitEvent
			}
			require.Empty(t, answers[0].UserErrors, name)
			if test.duplicate {
				require.Empty(t, answers[1].UserErrors, name)
				require.True(t, answers[1].Duplicate, name)
				require.Equal(t, answers[0].Event.ID, answers[1].Event.ID, name)
				continue
			}
			require.Len(t, answers[1].UserErrors, 1, name)
			require.Equal(t, "IDEMPOTENCY_MISMATCH", answers[1].UserErrors[0].Code, name)
		}
	})
}
