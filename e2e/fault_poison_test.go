package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// Events, filters, payload queries and schemas that are as bad as they get past validation: each
// such delivery ends and says why, or the event is refused; the processes live, and others' events
// go through as ever. (A panic within a delivery is worker's TestPanic_EndsThatDeliveryAlone: there
// is no input that makes one.)
func TestFault12_PoisonEvents(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1})
		l := w.emit(20)
		upsert := func(schema string) []userError {
			var out struct {
				UpsertEventType struct{ UserErrors []userError }
			}
			w.api().Query(t, `mutation($schema: JSON!) { upsertEventType(input: {name: "poison.event", title: "Poison", schema: $schema}) { userErrors { code message } } }`,
				map[string]any{"schema": json.RawMessage(schema)}, &out)
			return out.UpsertEventType.UserErrors
		}
		require.NotEmpty(t, upsert(`{"type": "object", "properties": {"next": {"$ref": "#"}, "any": {"anyOf": [{"$ref": "#"}, {"type": "array"}]}}}`))
		// A pattern that backtracks elsewhere, and not strict: its events may be anything.
		require.Empty(t, upsert(`{"type": "object", "properties": {
			"n": {"type": "integer"}, "text": {"type": "string", "pattern": "^(a+)+$"}, "list": {"type": "array", "items": {"type": "integer"}},
			"next": {"type": "object", "properties": {"next": {"type": "object", "properties": {"n": {"type": "integer"}}}}}, "any": {}}}`))

		receiver := receivertest.New(t)
		for name, more := range map[string]map[string]any{
			"plain":        nil,
			"filter fails": {"filter": "1 / data.n == 1"},
			"filter costs": {"filter": "data.list.all(x, data.list.all(y, x + y >= 0))"},
			"filter types": {"filter": "data.text.matches('^(a+)+$') && data.next.next.n > 0"},
			"query":        {"payloadQuery": `subscription { event { ... on PoisonEvent { n text list next { next { n } } any again: next { __typename } } } }`},
		} {
			input := map[string]any{"name": name, "targetUrl": receiver.URL(), "eventTypes": []string{"poison.event"}}
			maps.Copy(input, more)
			c := create(t, w.api(), input)
			require.Empty(t, c.UserErrors, name)
		}

		numbers := make([]string, 3000)
		for n := range numbers {
			numbers[n] = strconv.Itoa(n)
		}
		keys := make([]string, 5000)
		for n := range keys {
			keys[n] = fmt.Sprintf(`"k%d":{}`, n)
		}
		events := map[string]string{
			"zero":           `{"n":0}`,
			"nothing":        `{}`,
			"wrong types":    `{"n":"text","text":[],"list":{},"next":5,"any":null}`,
			"backtracking":   `{"n":1,"text":"` + strings.Repeat("a", 50000) + `!"}`,
			"long list":      `{"n":1,"list":[` + strings.Join(numbers, ",") + `]}`,
			"deep":           strings.Repeat(`{"next":`, 200) + `{}` + strings.Repeat(`}`, 200),
			"deeper":         strings.Repeat(`{"next":`, 10000) + `{}` + strings.Repeat(`}`, 10000),
			"deep list":      `{"any":` + strings.Repeat(`[`, 10000) + strings.Repeat(`]`, 10000) + `}`,
			"many keys":      `{"any":{` + strings.Join(keys, ",") + `}}`,
			"huge numbers":   `{"n":1e400,"list":[9223372036854775808,-1e-400]}`,
			"long number":    `{"n":` + strings.Repeat("9", 20000) + `}`,
			"NUL":            `{"text":"a\u0000b","\u0000":1}`,
			"lone surrogate": `{"text":"\ud800","\udfff":1}`,
			"two of a key":   `{"n":1,"n":0}`,
		}
		accepted := map[string]string{} // by the event's id
		refused := map[string]string{}
		for name, data := range events {
			body := `{"query":"mutation($data: JSON!) { emitEvent(input: {eventType: \"poison.event\", data: $data}) { event { id } userErrors { code } } }","variables":{"data":` + data + `}}`
			a, err := w.api().PostRaw(t.Context(), []byte(body))
			require.NoError(t, err, name)
			require.NotContains(t, a.Codes(), "INTERNAL", name)
			if id := eventID(a.Data); id != "" {
				accepted[id] = name
			} else {
				refused[name] = fmt.Sprint(a.Codes(), string(a.Data))
			}
		}
		t.Logf("%d accepted, refused: %v", len(accepted), refused)
		require.GreaterOrEqual(t, len(accepted), 5)

		w.accept(20)
		l.end(t)
		ends := map[string]map[string]int{}
		for id, name := range accepted {
			var list []delivery
			apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
				list = deliveries(t, w.api(), map[string]any{"eventId": id})
				open := slices.IndexFunc(list, func(d delivery) bool { return d.CompletedAt == nil })
				return open < 0, fmt.Sprintf("%s: %+v", name, list[max(open, 0)])
			})
			ends[name] = map[string]int{}
			for _, d := range list {
				ends[name][d.Status]++
				if d.Status != "SUCCEEDED" {
					require.Equal(t, "SKIPPED", d.Status, "%s: %+v", name, d)
					require.NotEmpty(t, *d.StatusReason)
					require.NotEmpty(t, *d.StatusDetail)
				}
				require.LessOrEqual(t, len(d.Attempts), 1)
			}
			require.NotZero(t, ends[name]["SUCCEEDED"], "the plain one gets %s", name)
		}
		t.Log(ends)
		require.NotZero(t, ends["zero"]["SKIPPED"], "a filter that fails")
		require.GreaterOrEqual(t, ends["long list"]["SKIPPED"], 2, "a filter that costs too much, and one that reads what is not there")
		w.settle(60 * time.Second)
		_, failed, _ := w.counts(time.Time{})
		require.Empty(t, failed)
		for _, p := range append(slices.Clone(w.workers), w.apis...) {
			require.False(t, p.ended())
			require.NotContains(t, p.stderr.String(), "panic")
		}
	})
}
