package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

const upsertEventType = `mutation($input: EventTypeInput!, $force: Boolean!) { upsertEventType(input: $input, force: $force) {
	eventType { name } brokenWebhooks { id } userErrors { code message field } } }`

// upsert adds or changes an event type, which must be fine, and gives the webhooks that it broke.
func upsert(t testing.TB, api *apptest.Client, name, schema string) (broken []string) {
	t.Helper()
	var out struct {
		UpsertEventType struct {
			BrokenWebhooks []struct{ ID string }
			UserErrors     []userError
		}
	}
	api.Query(t, upsertEventType, map[string]any{"force": true, "input": map[string]any{"name": name, "schema": json.RawMessage(schema)}}, &out)
	require.Empty(t, out.UpsertEventType.UserErrors)
	for _, w := range out.UpsertEventType.BrokenWebhooks {
		broken = append(broken, w.ID)
	}
	return broken
}

// Whatever an event holds, it is delivered as it came, filtered and shaped too, or refused by the emit
// with a word about it. It is never taken and then stuck.
func TestFault41_PoisonPayloads(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	const none = `{"text":null,"number":null,"any":null}`
	cases := map[string]poison{
		"NUL":                    {`{"text":"a\u0000b"}`, `{"text":"a\u0000b","number":null,"any":null}`, ""},
		"NUL in a key":           {`{"te\u0000xt":1}`, none, ""},
		"NUL beneath":            {`{"any":{"\u0000":["\u0000"]}}`, `{"text":null,"number":null,"any":{"\u0000":["\u0000"]}}`, ""},
		"a high surrogate alone": {`{"text":"\ud800"}`, `{"text":"\ud800","number":null,"any":null}`, ""},
		"a low surrogate alone":  {`{"text":"\udc00 x"}`, `{"text":"\udc00 x","number":null,"any":null}`, ""},
		"surrogates turned":      {`{"text":"\udc00\ud800"}`, `{"text":"\udc00\ud800","number":null,"any":null}`, ""},
		"a surrogate in a key":   {`{"any":{"\ud800":"\udfff"}}`, `{"text":null,"number":null,"any":{"\ud800":"\udfff"}}`, ""},
		"a non-character":        {`{"text":"\uffff\ufffe￿"}`, `{"text":"\uffff\ufffe￿","number":null,"any":null}`, ""},
		"2^63":                   {`{"number":9223372036854775808}`, `{"text":null,"number":9223372036854775808,"any":null}`, ""},
		"-2^63-1":                {`{"number":-9223372036854775809}`, `{"text":null,"number":-9223372036854775809,"any":null}`, ""},
		"2^64":                   {`{"number":18446744073709551616}`, `{"text":null,"number":18446744073709551616,"any":null}`, ""},
		"1e400":                  {`{"number":1e400}`, `{"text":null,"number":1e400,"any":null}`, ""},
		"1e-400":                 {`{"number":1e-400}`, `{"text":null,"number":1e-400,"any":null}`, ""},
		"an exponent of its own": {`{"number":1e999999999}`, `{"text":null,"number":1e999999999,"any":null}`, ""},
		"a thousand digits":      {`{"number":` + strings.Repeat("9", 1000) + `}`, `{"text":null,"number":` + strings.Repeat("9", 1000) + `,"any":null}`, ""},
		"minus nothing":          {`{"number":-0.0}`, `{"text":null,"number":-0.0,"any":null}`, ""},
		"the same key twice":     {`{"text":"a","text":"b","number":1,"number":2}`, `{"text":"b","number":2,"any":null}`, ""},
		"keys of JavaScript":     {`{"__proto__":{"a":1},"constructor":"x","any":{"__typename":"y"}}`, `{"text":null,"number":null,"any":{"__typename":"y"}}`, ""},
		"450 levels":             {`{"any":` + nested(450) + `}`, `{"text":null,"number":null,"any":` + nested(450) + `}`, ""},
		"505 levels":             {`{"any":` + nested(505) + `}`, "", "INVALID"},
		"10,000 levels":          {`{"any":` + nested(10_000) + `}`, "", "TOO_COMPLEX"},
		"a million levels":       {`{"any":` + nested(1_000_000) + `}`, "", "TOO_COMPLEX"},
		"a bare NUL":             {"{\"text\":\"a\x00b\"}", "", "BAD_REQUEST"},
		"not UTF-8":              {"{\"text\":\"\xff\xc0\x80\"}", "", "BAD_REQUEST"},
		"a surrogate's bytes":    {"{\"text\":\"\xed\xa0\x80\"}", "", "BAD_REQUEST"},
		"NaN":                    {`{"number":NaN}`, "", "BAD_REQUEST"},
		"Infinity":               {`{"number":-Infinity}`, "", "BAD_REQUEST"},
		"a leading zero":         {`{"number":01}`, "", "BAD_REQUEST"},
		"half an escape":         {`{"text":"\u12"}`, "", "BAD_REQUEST"},
		"a list":                 {`[1]`, "", "INVALID"},
		"a null":                 {`null`, "", "GRAPHQL_VALIDATION_FAILED"},
	}
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		cases := maps.Clone(cases)
		server := apptest.Start(t, stack, nil)
		upsert(t, server.Client, "poison.sent", poisonSchema)
		plain, filtered, counted, shaped := receivertest.New(t), receivertest.New(t), receivertest.New(t), receivertest.New(t)
		subscribe(t, server.Client, plain, map[string]any{"eventTypes": []string{"poison.*"}})
		// Both are true of all of it.
		subscribe(t, server.Client, filtered, map[string]any{
			"eventTypes": []string{"poison.sent"},
			"filter":     `!has(data.text) || data.text != "x" && size(data.text) >= 0 && !data.text.startsWith("y")`,
		})
		subscribe(t, server.Client, counted, map[string]any{"eventTypes": []string{"poison.sent"}, "filter": `!has(data.number) || data.number < 7 || data.number >= 7`})
		subscribe(t, server.Client, shaped, map[string]any{
			"eventTypes": []string{"poison.sent"}, "payloadQuery": `subscription { event { ... on PoisonSent { text number any } } }`,
		})
		emitRaw := func(name, data string) apptest.Answer {
			a, err := server.PostRaw(t.Context(), []byte(`{"query":"mutation($data: JSON!) { emitEvent(input: {eventType: \"poison.sent\", data: $data}) { event { id } userErrors { code message field } } }","variables":{"data":`+data+`}}`))
			require.NoError(t, err, name)
			return a
		}
		ids := map[string]string{}
		for name, c := range cases {
			a := emitRaw(name, c.data)
			ids[name] = eventID(a.Data)
			if c.shaped == "" {
				require.Empty(t, ids[name], "%s: %s", name, a.Body)
				require.Equal(t, []string{c.code}, refusedWith(t, a), "%s: %.500s", name, a.Body)
				continue
			}
			require.NotEmpty(t, ids[name], "%s: %.500s", name, a.Body)
		}
		ids["afterwards"] = eventID(emitRaw("afterwards", `{"text":"after"}`).Data)
		cases["afterwards"] = poison{`{"text":"after"}`, `{"text":"after","number":null,"any":null}`, ""}
		for name, c := range cases {
			if c.shaped == "" {
				continue
			}
			apptest.Eventually(t, func() (bool, string) {
				list := deliveries(t, server.Client, map[string]any{"eventId": ids[name]})
				for _, d := range list {
					if d.Status != "SUCCEEDED" {
						return false, fmt.Sprintf("%s: %+v", name, list)
					}
				}
				return len(list) == 4, fmt.Sprintf("%s: %+v", name, list)
			})
			for receiver, want := range map[*receivertest.Receiver]string{plain: c.data, filtered: c.data, counted: c.data, shaped: c.shaped} {
				got := receiver.ByID(ids[name])
				require.Len(t, got, 1, name)
				require.NoError(t, got[0].SignatureErr, name)
				_, data, _ := strings.Cut(string(got[0].Body), `"data":`)
				require.Equal(t, want+"}", data, name)
			}
		}
		require.NotContains(t, server.Log.String(), "panic")
		require.NotContains(t, server.Log.String(), `"level":"ERROR"`)
	})
}

// What no filter and no query can be asked of is SKIPPED with the reason, or delivered as it is; the
// other webhooks get it.
func TestFault41_DataOfAnotherTypeThanTheFilterWants(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		upsert(t, server.Client, "poison.sent", poisonSchema)
		plain, filtered := receivertest.New(t), receivertest.New(t)
		subscribe(t, server.Client, plain, map[string]any{"eventTypes": []string{"poison.sent"}})
		w := subscribe(t, server.Client, filtered, map[string]any{"eventTypes": []string{"poison.sent"}, "filter": `data.text.startsWith("a") && data.number > 1`})
		for _, data := range []string{`{"text":{"a":[1]},"number":2}`, `{"text":"a","number":"two"}`, `{"text":null}`, `{}`} {
			e := emit(t, server.Client, map[string]any{"eventType": "poison.sent", "data": json.RawMessage(data)})
			require.Equal(t, []string(nil), codesOf(e.UserErrors), data)
			apptest.Eventually(t, func() (bool, string) {
				list := deliveries(t, server.Client, map[string]any{"eventId": e.Event.ID})
				ended := 0
				for _, d := range list {
					if d.Status == "SUCCEEDED" || d.Status == "SKIPPED" && *d.StatusReason == "FILTER_ERROR" && *d.StatusDetail != "" {
						ended++
					}
				}
				return ended == 2, fmt.Sprintf("%s: %+v", data, list)
			})
			require.Len(t, plain.ByID(e.Event.ID), 1, data)
			require.Empty(t, filtered.ByID(e.Event.ID), data)
		}
		require.Len(t, deliveries(t, server.Client, map[string]any{"webhookId": w.ID, "statuses": []string{"SKIPPED"}}), 4)
	})
}

const poisonSchema = `{"type":"object","properties":{"text":{"type":"string"},"number":{"type":"number"},"any":{}}}`

// poison is the data of an event, and what the payload query makes of it; where that is "" the emit is
// refused with code.
type poison struct{ data, shaped, code string }

// refusedWith gives the codes of all that an answer says is wrong, each with a message.
func refusedWith(t testing.TB, a apptest.Answer) []string {
	t.Helper()
	var out struct{ EmitEvent *emitted }
	if len(a.Data) > 0 {
		require.NoError(t, json.Unmarshal(a.Data, &out))
	}
	codes := a.Codes()
	for _, e := range a.Errors {
		require.NotEmpty(t, e.Message)
	}
	if out.EmitEvent != nil {
		codes = append(codes, codesOf(out.EmitEvent.UserErrors)...)
	}
	return codes
}

func codesOf(problems []userError) (codes []string) {
	for _, p := range problems {
		codes = append(codes, p.Code)
	}
	return codes
}

// While a retry is pending everything changes that its body was made by: it is sent again byte for
// byte, and so is a redelivery; what is emitted afterwards follows the change.
func TestFault47_ChangesWhileRetriesArePending(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		upsert(t, server.Client, "order.paid", `{"type":"object","properties":{"id":{"type":"string"},"total":{"type":"number"},"note":{"type":"string"}}}`)
		var up atomic.Bool
		receiver := receivertest.New(t, receivertest.Default(func(x *receivertest.Exchange) {
			if up.Load() {
				receivertest.Status(http.StatusOK)(x)
			} else {
				receivertest.Status(http.StatusInternalServerError)(x)
			}
		}))
		w := subscribe(t, server.Client, receiver, map[string]any{
			"eventTypes": []string{"order.paid"}, "filter": `data.total > 1.0`, "retrySchedule": iso(patient),
			"payloadQuery": `subscription { event { ... on OrderPaid { id sum: total note } } }`,
		})
		before := emit(t, server.Client, map[string]any{"eventType": "order.paid", "data": json.RawMessage(`{"note":"ü","total":12.50,"id":"o_1"}`)})
		require.Equal(t, 1, before.Matched)
		receiver.Wait(t, 2)

		require.Equal(t, []string{w.ID}, upsert(t, server.Client, "order.paid", `{"type":"object","properties":{"id":{"type":"integer"},"amount":{"type":"number"}}}`))
		var out struct {
			UpdateWebhook struct{ UserErrors []userError }
		}
		server.Query(t, `mutation($id: ID!, $input: UpdateWebhookInput!) { updateWebhook(id: $id, input: $input) { userErrors { code message field } } }`,
			map[string]any{"id": w.ID, "input": map[string]any{"filter": nil, "payloadQuery": `subscription { event { ... on OrderPaid { amount } } }`}}, &out)
		require.Empty(t, out.UpdateWebhook.UserErrors)
		attempted := len(receiver.ByID(before.Event.ID))
		receiver.WaitFor(t, "an attempt after the change", func(all []receivertest.Request) bool {
			return len(receiver.ByID(before.Event.ID)) > attempted+1
		})
		up.Store(true)
		d := until(t, server.Client, before.Event.ID, "SUCCEEDED")
		after := emit(t, server.Client, map[string]any{"eventType": "order.paid", "data": json.RawMessage(`{"id":2,"amount":0.10}`)})
		require.Equal(t, 1, after.Matched)
		until(t, server.Client, after.Event.ID, "SUCCEEDED")
		require.Contains(t, string(receiver.ByID(after.Event.ID)[0].Body), `"data":{"amount":0.10}}`)

		requests := len(receiver.ByID(before.Event.ID))
		server.Query(t, `mutation($id: ID!) { redeliver(deliveryId: $id) { userErrors { code } } }`, map[string]any{"id": d.ID}, nil)
		all := receiver.WaitFor(t, "the redelivery", func([]receivertest.Request) bool { return len(receiver.ByID(before.Event.ID)) > requests })
		require.NotEmpty(t, all)
		for n, r := range receiver.ByID(before.Event.ID) {
			require.NoError(t, r.SignatureErr)
			require.Equal(t, string(receiver.ByID(before.Event.ID)[0].Body), string(r.Body), "attempt %d", n+1)
			require.Contains(t, string(r.Body), `"data":{"id":"o_1","sum":12.50,"note":"ü"}}`)
		}
	})
}
