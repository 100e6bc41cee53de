package graph_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

func TestEmit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		t.Helper()
		id := f.create(t, f.manage, "receiver", "message.*")
		const emit = `mutation($input: EmitEventInput!) { emitEvent(input: $input) {
			event { id tenant eventType data timestamp deliverAt idempotencyKey createdAt erasedAt } duplicate matched
			deliveries { nodes { status statusReason trigger attemptCount nextAttemptAt webhook { id } attempts { id } lastAttempt { id } completedAt } pageInfo { hasNextPage } }
			userErrors { code message field } } }`
		input := map[string]any{
			"eventType": "message.sent", "data": json.RawMessage(`{"n":1.10}`), "timestamp": "2026-03-01T12:00:00.123456789+02:00",
			"idempotencyKey": "k1", "deliverAt": "2999-01-01T00:00:00Z",
		}
		v := get[tree](t, f, f.all, emit, variables{"input": input})
		event := tree(v.at("emitEvent", "event").(map[string]any))
		assert.Equal(t, "acme", event.text("tenant"))
		assert.Equal(t, "2026-03-01T10:00:00.123456Z", event.text("timestamp"))
		assert.Equal(t, "2999-01-01T00:00:00Z", event.text("deliverAt"))
		assert.Equal(t, false, v.at("emitEvent", "duplicate"))
		assert.EqualValues(t, 1, v.at("emitEvent", "matched"))
		assert.Equal(t, []any{map[string]any{
			"status": "PENDING", "statusReason": "SCHEDULED", "trigger": "AUTOMATIC", "attemptCount": 0.0, "nextAttemptAt": "2999-01-01T00:00:00Z",
			"webhook": map[string]any{"id": id}, "attempts": []any{}, "lastAttempt": nil, "completedAt": nil,
		}}, v.at("emitEvent", "deliveries", "nodes"))

		again := get[tree](t, f, f.all, emit, variables{"input": input})
		assert.Equal(t, true, again.at("emitEvent", "duplicate"))
		assert.Equal(t, map[string]any(event), again.at("emitEvent", "event"))
		assert.Len(t, again.at("emitEvent", "deliveries", "nodes"), 1)

		input["data"] = json.RawMessage(`{"n":1.11}`)
		other := get[tree](t, f, f.all, emit, variables{"input": input})
		assert.Equal(t, "IDEMPOTENCY_MISMATCH", problemsIn(other.at("emitEvent", "userErrors"))[0].Code)
		assert.Nil(t, other.at("emitEvent", "event"))
		assert.Nil(t, other.at("emitEvent", "deliveries"))

		t.Run("cancel", func(t *testing.T) {
			v := get[tree](t, f, f.all, `mutation { cancelEvent(id: "`+event.text("id")+`") { cancelled event { deliveries { nodes { status statusReason nextAttemptAt } } } userErrors { code } } }`, nil)
			assert.EqualValues(t, 1, v.at("cancelEvent", "cancelled"))
			assert.Equal(t, []any{map[string]any{"status": "CANCELLED", "statusReason": "CANCELLED_BY_USER", "nextAttemptAt": nil}},
				v.at("cancelEvent", "event", "deliveries", "nodes"))
		})
	})
}

func TestEmitProblems(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tc := range map[string]struct {
		input string
		want  problem
	}{
		"an unknown type":        {`{"eventType":"no.such","data":{}}`, problem{"UNKNOWN_EVENT_TYPE", "eventType"}},
		"a list":                 {`{"eventType":"message.sent","data":[]}`, problem{"INVALID", "data"}},
		"a text":                 {`{"eventType":"message.sent","data":"` + canary + `"}`, problem{"INVALID", "data"}},
		"too large":              {`{"eventType":"message.sent","data":{"a":"` + strings.Repeat("x", 257<<10) + `"}}`, problem{"TOO_LARGE", "data"}},
		"a long key":             {`{"eventType":"message.sent","data":{},"idempotencyKey":"` + strings.Repeat("x", 300) + `"}`, problem{"TOO_LONG", "idempotencyKey"}},
		"white space counts not": {`{"eventType":"message.sent","data":{` + strings.Repeat(" ", 300<<10) + `}}`, problem{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want []problem
			if tc.want != (problem{}) {
				want = []problem{{tc.want.Code, "input." + tc.want.Field}}
			}
			v := get[tree](t, f, f.emit, `mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id } userErrors { code field } } }`,
				variables{"input": json.RawMessage(tc.input)})
			assert.ElementsMatch(t, want, problemsIn(v.at("emitEvent", "userErrors")))

			v = get[tree](t, f, f.emit, `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { event { id } userErrors { code field } } userErrors { code } } }`,
				variables{"inputs": []any{json.RawMessage(`{"eventType":"message.sent","data":{}}`), json.RawMessage(tc.input)}})
			results := v.at("emitEvents", "results").([]any)
			require.Len(t, results, 2)
			assert.NotNil(t, tree(results[0].(map[string]any)).at("event"))
			if len(want) > 0 {
				want[0].Field = "inputs.1." + tc.want.Field
			}
			assert.ElementsMatch(t, want, problemsIn(results[1].(map[string]any)["userErrors"]))
		})
	}
}

// W2's rule holds for events too: everything that is wrong comes back at once.
func TestEmitProblemsComeAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, tc := range map[string]struct {
		input string
		want  []problem
	}{
		"an unknown type": {
			`{"eventType":"no.such","data":[],"idempotencyKey":"","tenant":""}`,
			[]problem{{"INVALID", "input.tenant"}, {"INVALID", "input.data"}, {"INVALID", "input.idempotencyKey"}, {"UNKNOWN_EVENT_TYPE", "input.eventType"}},
		},
		"a notice": {
			`{"eventType":"webhook.failing","data":5,"idempotencyKey":"` + strings.Repeat("x", 256) + `"}`,
			[]problem{{"INVALID", "input.eventType"}, {"INVALID", "input.data"}, {"TOO_LONG", "input.idempotencyKey"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := get[tree](t, f, f.admin, `mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id } userErrors { code field } } }`,
				variables{"input": json.RawMessage(tc.input)})
			assert.ElementsMatch(t, tc.want, problemsIn(v.at("emitEvent", "userErrors")))
			assert.Nil(t, v.at("emitEvent", "event"))
		})
	}
}

func TestE4_BatchLimit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const emit = `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { matched event { id } } userErrors { code field } } }`
	for _, n := range []int{101, 102, 1_500} {
		v := get[tree](t, f, f.emit, emit, variables{"inputs": batch(n)})
		assert.Equal(t, []problem{{"TOO_LARGE", "inputs"}}, problemsIn(v.at("emitEvents", "userErrors")), n)
		assert.Empty(t, v.at("emitEvents", "results"), n)
	}
	v := get[tree](t, f, f.emit, emit, variables{"inputs": batch(100)})
	assert.Len(t, v.at("emitEvents", "results"), 100)
	v = get[tree](t, f, f.emit, emit, variables{"inputs": batch(0)})
	assert.Empty(t, v.at("emitEvents", "results"))
	v = get[tree](t, f, f.read, `{ events(first: 100) { nodes { id } pageInfo { hasNextPage } } }`, nil)
	assert.Len(t, v.at("events", "nodes"), 100, "the batch of 101 left nothing")
}

// An input that fails in a way that is no userErrors leaves the others their answers.
func TestE4_EachInputIsAnsweredByItself(t *testing.T) {
	t.Parallel()
	f := setup(t)
	inputs := batch(3)
	inputs[1]["tenant"] = "other"
	const emit = `mutation($inputs: [EmitEventInput!]!) { batch: emitEvents(inputs: $inputs) { results { event { id } userErrors { code } } } }`
	r := f.do(t, f.emit, emit, variables{"inputs": inputs})
	assert.Equal(t, []any{"batch", "results", 1.0}, requireCode(t, r, "FORBIDDEN").Path)
	var v tree
	require.NoError(t, json.Unmarshal(r.Data, &v))
	for i, result := range v.at("batch", "results").([]any) {
		assert.Equal(t, i != 1, tree(result.(map[string]any)).at("event") != nil)
	}
	r = f.do(t, f.emit, emit, variables{"inputs": inputs[1:2]})
	assert.Equal(t, []any{"batch"}, requireCode(t, r, "FORBIDDEN").Path)
	assert.JSONEq(t, `{"batch":null}`, string(r.Data))
}

// attempt makes the attempts of a delivery that a worker would make, with these outcomes.
func (f *fixture) attempt(t *testing.T, deliveryID string, outcomes ...models.Outcome) {
	t.Helper()
	for _, outcome := range outcomes {
		token := models.NewID("tok_")
		claims, err := f.store.Claim(t.Context(), []string{deliveryID}, token, time.Minute)
		require.NoError(t, err)
		require.Len(t, claims.Claimed, 1)
		c := claims.Claimed[0]
		w, err := f.store.WebhookByID(t.Context(), c.WebhookID)
		require.NoError(t, err)
		status, body, took, ended, text := 200, "thanks", int64(1500), c.ClaimedAt.Add(1500*time.Microsecond), "no answer with 2xx"
		disposition := models.Succeeded()
		record := models.Attempt{
			DeliveryID: c.DeliveryID, Number: c.Number, Tenant: c.Tenant, Token: token, Trigger: c.Trigger, StartedAt: c.ClaimedAt, EndedAt: &ended,
			Outcome: &outcome, RequestURL: w.TargetURL, RequestHeaders: models.Headers{{Name: "webhook-id", Value: c.EventID}},
			ResponseStatus: &status, ResponseHeaders: models.Headers{{Name: "Content-Type", Value: "text/plain"}}, ResponseBody: &body,
			TotalMicros: &took, FirstByteMicros: &took,
		}
		if outcome != models.OutcomeSuccess {
			status, disposition, record.Error = 500, models.RetryAfter(0), &text
		}
		_, err = f.store.Record(t.Context(), []models.AttemptRecord{{Attempt: record, WebhookID: c.WebhookID, EventType: c.EventType, Disposition: disposition}})
		require.NoError(t, err)
	}
}

func TestH1_History(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		t.Helper()
		webhook := f.create(t, f.manage, "receiver")
		event := f.emitted(t, f.emit, "message.sent", `{"n":1.10,"s":"<é>"}`)
		v := get[tree](t, f, f.read, `{ deliveries { nodes { id } } }`, nil)
		delivery := v.at("deliveries", "nodes").([]any)[0].(map[string]any)["id"].(string)
		f.attempt(t, delivery, models.OutcomeHTTPError, models.OutcomeSuccess)

		const fields = `id number trigger startedAt endedAt outcome error remoteAddress delivery { id }
			request { method url headers { name value masked } body } response { status headers { name value masked } body bodyTruncated }
			timing { totalMs dnsMs connectMs tlsMs firstByteMs }`
		v = get[tree](t, f, f.read, `query($id: ID!) { delivery(id: $id) { status attemptCount nextAttemptAt completedAt event { id timestamp } lastAttempt { id number } attempts { `+fields+` } } }`, variables{"id": delivery})
		d := tree(v.at("delivery").(map[string]any))
		assert.Equal(t, "SUCCEEDED", d.text("status"))
		assert.Nil(t, d.at("nextAttemptAt"))
		assert.EqualValues(t, 2, d.at("attemptCount"))
		assert.EqualValues(t, 2, d.at("lastAttempt", "number"))
		attempts := d.at("attempts").([]any)
		require.Len(t, attempts, 2)
		first := tree(attempts[0].(map[string]any))
		assert.Equal(t, "HTTP_ERROR", first.text("outcome"))
		assert.Equal(t, "no answer with 2xx", first.text("error"))
		assert.Equal(t, delivery, first.text("delivery", "id"))
		assert.Equal(t, map[string]any{
			"method": "POST", "url": "https://receiver.example/hook", "headers": []any{map[string]any{"name": "webhook-id", "value": event, "masked": false}},
			"body": `{"type":"message.sent","timestamp":"` + d.text("event", "timestamp") + `","data":{"n":1.10,"s":"<é>"}}`,
		}, first.at("request"))
		assert.Equal(t, map[string]any{
			"status": 500.0, "headers": []any{map[string]any{"name": "Content-Type", "value": "text/plain", "masked": false}}, "body": "thanks", "bodyTruncated": false,
		}, first.at("response"))
		assert.Equal(t, map[string]any{"totalMs": 1.5, "dnsMs": nil, "connectMs": nil, "tlsMs": nil, "firstByteMs": 1.5}, first.at("timing"))

		t.Run("by id", func(t *testing.T) {
			id := first.text("id")
			v := get[tree](t, f, f.read, `query($ids: [ID!]!, $id: ID!) { node(id: $id) { __typename id ... on Attempt { number } } nodes(ids: $ids) { __typename id } }`,
				variables{"id": id, "ids": []string{webhook, event, "x", delivery, id, webhook}})
			assert.Equal(t, map[string]any{"__typename": "Attempt", "id": id, "number": 1.0}, v.at("node"))
			assert.Equal(t, []any{
				map[string]any{"__typename": "Webhook", "id": webhook},
				map[string]any{"__typename": "Event", "id": event},
				nil,
				map[string]any{"__typename": "Delivery", "id": delivery},
				map[string]any{"__typename": "Attempt", "id": id},
				map[string]any{"__typename": "Webhook", "id": webhook},
			}, v.at("nodes"))
		})
		t.Run("redeliver", func(t *testing.T) {
			v := get[tree](t, f, f.manage, `mutation($id: ID!) { redeliver(deliveryId: $id) { delivery { status } userErrors { code field } }
				again: redeliver(deliveryId: $id) { delivery { id } userErrors { code field } }
				cancelDelivery(deliveryId: $id) { delivery { id } userErrors { code } } }`, variables{"id": delivery})
			assert.Contains(t, []string{"PENDING", "RETRYING"}, v.text("redeliver", "delivery", "status"))
			assert.Equal(t, []problem{{"NOT_ALLOWED_NOW", "deliveryId"}}, problemsIn(v.at("again", "userErrors")))
			assert.Empty(t, v.at("cancelDelivery", "userErrors"))
		})
		t.Run("statistics", func(t *testing.T) {
			v := get[tree](t, f, f.read, `query($id: ID!) { webhook(id: $id) { stats { ...s } health { successRate p95LatencyMs consecutiveFailures lastSuccessAt } }
				deliveryStats { ...s } other: deliveryStats(eventType: "participant.created") { total } }
				fragment s on DeliveryStats { total succeeded failed attempts successRate p50LatencyMs p99LatencyMs buckets { start attempts succeeded p95LatencyMs } }`, variables{"id": webhook})
			assert.Equal(t, v.at("webhook", "stats"), v.at("deliveryStats"))
			s := tree(v.at("deliveryStats").(map[string]any))
			assert.Equal(t, []any{1.0, 1.0, 0.0, 2.0, 1.0}, []any{s.at("total"), s.at("succeeded"), s.at("failed"), s.at("attempts"), s.at("successRate")})
			assert.InDelta(t, 1.5, s.at("p50LatencyMs"), 0.3)
			assert.InDelta(t, 97, len(s.at("buckets").([]any)), 1)
			assert.InDelta(t, 0.5, v.at("webhook", "health", "successRate"), 0)
			assert.NotEmpty(t, v.at("webhook", "health", "lastSuccessAt"))
			assert.EqualValues(t, 0, v.at("other", "total"))
		})
	})
}

func TestStatisticsArguments(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for args, buckets := range map[string]int{
		`interval: "PT1M", since: "2026-03-01T12:00:00Z", until: "2026-03-01T13:00:00Z"`: 60,
		`since: "2026-03-01T12:00:00Z", until: "2026-03-01T12:30:30Z"`:                   31,
		`since: "2026-01-01T00:00:00Z", until: "2026-03-01T00:00:00Z"`:                   59,
	} {
		v := get[tree](t, f, f.read, `{ deliveryStats(`+args+`) { buckets { start } } }`, nil)
		assert.Lenf(t, v.at("deliveryStats", "buckets"), buckets, "%s", args)
	}
	for _, args := range []string{
		`interval: "soon"`, `interval: "PT0S"`, `interval: "PT90S"`, `interval: "PT1M", since: "2020-01-01T00:00:00Z"`,
		`since: "2026-03-02T00:00:00Z", until: "2026-03-01T00:00:00Z"`,
	} {
		requireCode(t, f.do(t, f.read, `{ deliveryStats(`+args+`) { total } }`, nil), "BAD_REQUEST")
	}
	requireCode(t, f.do(t, f.read, `{ deliveryStats(tenant: "other") { total } }`, nil), "FORBIDDEN")
}
