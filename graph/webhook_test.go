package graph_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const webhookFields = `id tenant externalId name targetUrl eventTypes filter payloadQuery headers { name value masked } status statusReason
	timeout retrySchedule rateLimitPerSecond signing publicKey secretKeyHint previousSecretKeyExpiresAt version createdAt updatedAt deletedAt
	health { successRate p95LatencyMs consecutiveFailures failingSince disableAt lastSuccessAt lastFailureAt }`

func TestWebhookLifecycle(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		t.Helper()
		v := get[tree](t, f, f.manage, `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
			webhook { `+webhookFields+` } secretKey userErrors { code message field } } }`, variables{"input": map[string]any{
			"externalId": "crm-1", "name": "CRM Sync", "targetUrl": "https://crm.example/hook", "eventTypes": []string{"participant.*"},
			"headers": []map[string]any{{"name": "X-Team", "value": "a"}, {"name": "Authorization", "value": canary}},
			"timeout": "PT20S", "retrySchedule": []string{"PT10S", "P1D"}, "rateLimitPerSecond": 5,
		}})
		require.Empty(t, v.at("createWebhook", "userErrors"))
		id := v.text("createWebhook", "webhook", "id")
		key := v.text("createWebhook", "secretKey")
		assert.Regexp(t, `^whsec_[A-Za-z0-9+/]{43}=$`, key)
		w := tree(v.at("createWebhook", "webhook").(map[string]any))
		assert.Equal(t, "acme", w.text("tenant"))
		assert.Equal(t, "PT20S", w.text("timeout"))
		assert.Equal(t, []any{"PT10S", "PT24H"}, w.at("retrySchedule"))
		assert.Equal(t, "ACTIVE", w.text("status"))
		assert.Equal(t, key[len(key)-5:len(key)-1], w.text("secretKeyHint"))
		headers := w.at("headers").([]any)
		assert.Equal(t, map[string]any{"name": "X-Team", "value": "a", "masked": false}, headers[0])
		assert.Equal(t, true, headers[1].(map[string]any)["masked"])
		assert.Equal(t, map[string]any{
			"successRate": nil, "p95LatencyMs": nil, "consecutiveFailures": 0.0, "failingSince": nil, "disableAt": nil, "lastSuccessAt": nil, "lastFailureAt": nil,
		}, w.at("health"))

		t.Run("by id and by the caller's own key", func(t *testing.T) {
			for _, arg := range []string{`id: "` + id + `"`, `externalId: "crm-1"`} {
				r := f.do(t, f.read, `{ webhook(`+arg+`) { `+webhookFields+` } }`, nil)
				require.Empty(t, r.Errors)
				var got tree
				require.NoError(t, json.Unmarshal(r.Data, &got))
				assert.Equal(t, map[string]any(w), got.at("webhook"))
				assert.NotContains(t, r.body, key)
				assert.NotContains(t, r.body, canary)
			}
		})
		t.Run("absent keeps, null clears", func(t *testing.T) {
			v := get[tree](t, f, f.manage, `mutation($id: ID!, $input: UpdateWebhookInput!) { updateWebhook(id: $id, input: $input, expectedVersion: 1) {
				webhook { name externalId timeout retrySchedule rateLimitPerSecond headers { name } eventTypes version } userErrors { code message field } } }`,
				variables{"id": id, "input": json.RawMessage(`{"name":"CRM","timeout":null,"rateLimitPerSecond":null,"retrySchedule":[],"headers":[{"name":"Authorization"}]}`)})
			assert.Equal(t, map[string]any{
				"webhook": map[string]any{
					"name": "CRM", "externalId": "crm-1", "timeout": "PT15S", "retrySchedule": []any{}, "rateLimitPerSecond": nil,
					"headers": []any{map[string]any{"name": "Authorization"}}, "eventTypes": []any{"participant.*"}, "version": 2.0,
				},
				"userErrors": []any{},
			}, v.at("updateWebhook"))
			r := f.do(t, f.manage, `mutation { updateWebhook(id: "`+id+`", input: {externalId: null, retrySchedule: null, headers: null}) {
				webhook { externalId retrySchedule headers { name } } } }`, nil)
			require.Empty(t, r.Errors)
			assert.JSONEq(t, `{"updateWebhook":{"webhook":{"externalId":null,"retrySchedule":["PT5S","PT5M"],"headers":[]}}}`, string(r.Data))
		})
		t.Run("another version", func(t *testing.T) {
			v := get[tree](t, f, f.manage, `mutation { updateWebhook(id: "`+id+`", input: {name: "x"}, expectedVersion: 1) { webhook { id } userErrors { code field conflictingId } } }`, nil)
			assert.Equal(t, map[string]any{
				"webhook": nil, "userErrors": []any{map[string]any{"code": "CONFLICT", "field": []any{"expectedVersion"}, "conflictingId": id}},
			}, v.at("updateWebhook"))
		})
		t.Run("rotation", func(t *testing.T) {
			v := get[tree](t, f, f.manage, `mutation { rotateWebhookSecretKey(id: "`+id+`") { secretKey webhook { previousSecretKeyExpiresAt } userErrors { code } } }`, nil)
			assert.NotEqual(t, key, v.text("rotateWebhookSecretKey", "secretKey"))
			assert.NotEmpty(t, v.text("rotateWebhookSecretKey", "webhook", "previousSecretKeyExpiresAt"))
			v = get[tree](t, f, f.manage, `mutation { rotateWebhookSecretKey(id: "`+id+`", overlap: "PT0S") { webhook { previousSecretKeyExpiresAt } userErrors { code } } }`, nil)
			assert.Nil(t, v.at("rotateWebhookSecretKey", "webhook", "previousSecretKeyExpiresAt"))
		})
		t.Run("states", func(t *testing.T) {
			for _, step := range [][2]string{{"pauseWebhook", "PAUSED"}, {"resumeWebhook", "ACTIVE"}, {"disableWebhook", "DISABLED"}, {"resumeWebhook", "ACTIVE"}} {
				v := get[tree](t, f, f.manage, `mutation { `+step[0]+`(id: "`+id+`") { webhook { status } userErrors { code } } }`, nil)
				assert.Equal(t, step[1], v.text(step[0], "webhook", "status"))
			}
			v := get[tree](t, f, f.manage, `mutation { deleteWebhook(id: "`+id+`") { deletedId userErrors { code } } }`, nil)
			assert.Equal(t, id, v.text("deleteWebhook", "deletedId"))
			v = get[tree](t, f, f.read, `{ webhook(id: "`+id+`") { deletedAt } webhooks { totalCount nodes { id } } }`, nil)
			assert.NotEmpty(t, v.text("webhook", "deletedAt"))
			assert.Equal(t, map[string]any{"totalCount": 0.0, "nodes": []any{}}, v.at("webhooks"))
		})
		assert.NotContains(t, f.log.String(), key)
		assert.NotContains(t, f.log.String(), canary)
	})
}

func TestW2_EveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	v := get[tree](t, f, f.manage, `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } secretKey userErrors { code field } } }`,
		variables{"input": map[string]any{
			"name": "", "targetUrl": "ftp://x", "eventTypes": []string{"no.such"}, "timeout": "soon", "retrySchedule": []string{"PT1S", "never"},
			"rateLimitPerSecond": -1, "headers": []map[string]any{{"name": "webhook-id", "value": "x"}, {"name": "a", "value": "b\r\nc"}},
		}})
	assert.Nil(t, v.at("createWebhook", "webhook"))
	assert.Nil(t, v.at("createWebhook", "secretKey"))
	var fields []string
	for _, p := range problemsIn(v.at("createWebhook", "userErrors")) {
		fields = append(fields, p.Field)
	}
	assert.ElementsMatch(t, []string{
		"input.name", "input.targetUrl", "input.eventTypes.0", "input.timeout", "input.retrySchedule.1", "input.rateLimitPerSecond",
		"input.headers.0.name", "input.headers.1.value",
	}, fields)
	// Scalars that are no texts are told together with the rest.
	v = get[tree](t, f, f.manage, `mutation { createWebhook(input: {name: "a", targetUrl: 4711, eventTypes: ["*"], timeout: true, retrySchedule: 1.5}) { userErrors { code field } } }`, nil)
	assert.Len(t, v.at("createWebhook", "userErrors"), 3)
	v = get[tree](t, f, f.read, `{ webhooks { totalCount } }`, nil)
	assert.EqualValues(t, 0, v.at("webhooks", "totalCount"))
}

func TestWebhookTakesExactlyOneKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, args := range []string{``, `(id: "wh_1", externalId: "x")`, `(id: null)`} {
		e := requireCode(t, f.do(t, f.read, `{ webhook`+args+` { id } }`, nil), "BAD_REQUEST")
		assert.Equal(t, []any{"webhook"}, e.Path)
		assert.NotEmpty(t, e.Locations)
	}
}

func TestTestWebhookSendsToThatWebhookAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.create(t, f.manage, "one", "message.sent")
	f.create(t, f.manage, "two", "message.sent")
	v := get[tree](t, f, f.manage, `mutation { testWebhook(id: "`+id+`") { delivery { id trigger webhook { id } event { eventType data } } userErrors { code message } } }`, nil)
	assert.Equal(t, "TEST", v.text("testWebhook", "delivery", "trigger"))
	assert.Equal(t, id, v.text("testWebhook", "delivery", "webhook", "id"))
	assert.NotEmpty(t, v.at("testWebhook", "delivery", "event", "data"))
	v = get[tree](t, f, f.manage, `mutation { testWebhook(id: "`+id+`", eventType: "message.sent", data: {n: 1.10}) { delivery { event { data } } userErrors { code message } } }`, nil)
	assert.NotNil(t, v.at("testWebhook", "delivery"))
	v = get[tree](t, f, f.read, `{ events { nodes { id } } deliveries { nodes { webhook { id } } } }`, nil)
	assert.Empty(t, v.at("events", "nodes"), "tests did not happen")
	assert.Len(t, v.at("deliveries", "nodes"), 2)
}

// All that is wrong with a test comes back at once, and nothing is sent.
func TestTestWebhookTellsAllProblems(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.create(t, f.manage, "one", "message.sent")
	get[tree](t, f, f.manage, `mutation { pauseWebhook(id: "`+id+`") { userErrors { code } } }`, nil)
	const mutation = `mutation($id: ID!, $type: String, $data: JSON) { testWebhook(id: $id, eventType: $type, data: $data) { delivery { id } userErrors { code field } } }`
	for name, tc := range map[string]struct {
		vars variables
		want []problem
	}{
		"nothing else": {variables{}, []problem{{"NOT_ALLOWED_NOW", "id"}}},
		"data":         {variables{"data": 5}, []problem{{"NOT_ALLOWED_NOW", "id"}, {"INVALID", "data"}}},
		"type":         {variables{"type": "no.such"}, []problem{{"NOT_ALLOWED_NOW", "id"}, {"UNKNOWN_EVENT_TYPE", "eventType"}}},
		"both": {
			variables{"type": "no.such", "data": map[string]any{"a": strings.Repeat("x", 257<<10)}},
			[]problem{{"NOT_ALLOWED_NOW", "id"}, {"UNKNOWN_EVENT_TYPE", "eventType"}, {"TOO_LARGE", "data"}},
		},
	} {
		tc.vars["id"] = id
		v := get[tree](t, f, f.manage, mutation, tc.vars)
		assert.ElementsMatch(t, tc.want, problemsIn(v.at("testWebhook", "userErrors")), name)
		assert.Nil(t, v.at("testWebhook", "delivery"), name)
	}
	assert.Empty(t, get[tree](t, f, f.read, `{ deliveries { nodes { id } } }`, nil).at("deliveries", "nodes"))
}

func TestUnknownIDs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"", "x", "wh_", "wh_00000000000000000000000000", "evt_\x00", strings.Repeat("a", 10_000), "dlv_00000000000000000000000000", "att_00000000000000000000000000_1"} {
		v := get[tree](t, f, f.all, `query($id: ID!) { webhook(id: $id) { id } event(id: $id) { id } delivery(id: $id) { id } node(id: $id) { id } nodes(ids: [$id, $id]) { id } }`, variables{"id": id})
		assert.Equal(t, tree{"webhook": nil, "event": nil, "delivery": nil, "node": nil, "nodes": []any{nil, nil}}, v)
		for mutation, arg := range map[string]string{
			"deleteWebhook": "id", "pauseWebhook": "id", "resumeWebhook": "id", "disableWebhook": "id", "rotateWebhookSecretKey": "id", "testWebhook": "id",
			"cancelEvent": "id", "redeliver": "deliveryId", "cancelDelivery": "deliveryId",
		} {
			v := get[tree](t, f, f.all, `mutation($id: ID!) { `+mutation+`(`+arg+`: $id) { userErrors { code field } } }`, variables{"id": id})
			assert.Equalf(t, []problem{{"NOT_FOUND", arg}}, problemsIn(v.at(mutation, "userErrors")), "%s", mutation)
		}
		v = get[tree](t, f, f.all, `mutation($id: ID!) { updateWebhook(id: $id, input: {name: "x"}) { userErrors { code field } } }`, variables{"id": id})
		assert.Equal(t, []problem{{"NOT_FOUND", "id"}}, problemsIn(v.at("updateWebhook", "userErrors")))
		v = get[tree](t, f, f.admin, `mutation($id: ID!) { revokeApiKey(id: $id) { userErrors { code field } } }`, variables{"id": id})
		assert.Equal(t, []problem{{"NOT_FOUND", "id"}}, problemsIn(v.at("revokeApiKey", "userErrors")))
	}
}
