package app_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// upserted is the answer to upsertEventType.
type upserted struct {
	EventType *struct {
		ID, Name, Title, Status string
		GraphqlType             *string
		Schema                  json.RawMessage
		Strict                  bool
	}
	BrokenWebhooks     []webhook
	BrokenWebhookCount int
	UserErrors         []userError
}

func upsert(t testing.TB, api *apptest.Client, input, arguments map[string]any) upserted {
	t.Helper()
	variables := map[string]any{"input": input}
	maps.Copy(variables, arguments)
	var out struct{ UpsertEventType upserted }
	api.Query(t, `mutation($input: EventTypeInput!, $dryRun: Boolean! = false, $force: Boolean! = false) {
		upsertEventType(input: $input, dryRun: $dryRun, force: $force) {
			eventType { id name title status graphqlType schema strict } brokenWebhooks { id } brokenWebhookCount
			userErrors { code message field pointer } } }`, variables, &out)
	return out.UpsertEventType
}

var orderSchema = json.RawMessage(`{"type":"object","required":["total"],"properties":{"total":{"type":"number"},"note":{"type":"string"}}}`)

func TestC2_EventTypesAtRunTime(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		require.Equal(t, "UNKNOWN_EVENT_TYPE", tryEmit(t, s.Client, "order.placed", `{}`, nil).UserErrors[0].Code)

		order := map[string]any{"name": "order.placed", "schema": orderSchema, "strict": true}
		dry := upsert(t, s.Client, order, map[string]any{"dryRun": true})
		require.Empty(t, dry.UserErrors)
		require.Nil(t, dry.EventType)
		require.Equal(t, "UNKNOWN_EVENT_TYPE", tryEmit(t, s.Client, "order.placed", `{}`, nil).UserErrors[0].Code, "a dry run changes nothing")

		made := upsert(t, s.Client, order, nil)
		require.Empty(t, made.UserErrors)
		require.Equal(t, "Order Placed", made.EventType.Title)
		require.Equal(t, "OrderPlaced", *made.EventType.GraphqlType)
		require.JSONEq(t, string(orderSchema), string(made.EventType.Schema))

		var catalogue struct {
			EventCatalogueSdl string
			EventType         struct{ GraphqlType string }
		}
		s.Query(t, `{ eventCatalogueSdl eventType(name: "order.placed") { graphqlType } }`, nil, &catalogue)
		require.Contains(t, catalogue.EventCatalogueSdl, "type OrderPlaced {")
		require.Equal(t, "OrderPlaced", catalogue.EventType.GraphqlType)

		bad := tryEmit(t, s.Client, "order.placed", `{"total":"much","note":7}`, nil)
		require.Nil(t, bad.Event)
		pointers := map[string]bool{}
		for _, e := range bad.UserErrors {
			require.Equal(t, "SCHEMA_VIOLATION", e.Code)
			require.Equal(t, []string{"input", "data"}, e.Field)
			pointers[*e.Pointer] = true
		}
		require.Equal(t, map[string]bool{"/total": true, "/note": true}, pointers)

		created := create(t, s.Client, receiver.URL(), map[string]any{
			"eventTypes": []string{"order.placed"}, "filter": "data.total > 10.0",
			"payloadQuery": "subscription { event { ... on OrderPlaced { total } } }",
		})
		eventually(t, s.Client, emit(t, s.Client, "order.placed", `{"note":"x","total":10.10}`), "SUCCEEDED")
		require.Contains(t, string(receiver.Wait(t, 1)[0].Body), `"data":{"total":10.10}`)

		broken := upsert(t, s.Client, map[string]any{
			"name": "order.placed", "schema": json.RawMessage(`{"type":"object","properties":{"note":{"type":"string"}},"additionalProperties":false}`),
		}, nil)
		require.Equal(t, 1, broken.BrokenWebhookCount)
		require.Equal(t, created.Webhook.ID, broken.BrokenWebhooks[0].ID)
		require.Equal(t, "NOT_ALLOWED_NOW", broken.UserErrors[0].Code)
		require.Equal(t, []string{"force"}, broken.UserErrors[0].Field)
		emit(t, s.Client, "order.placed", `{"total":1}`) // the old schema still holds

		problems := upsert(t, s.Client, map[string]any{"name": "Order", "schema": json.RawMessage(`{"type":"nope"}`)}, nil)
		require.Len(t, problems.UserErrors, 2)
		remote := upsert(t, s.Client, map[string]any{"name": "a.b", "schema": json.RawMessage(`{"$ref":"https://example.com/schema"}`)}, nil)
		require.Equal(t, "INVALID_SCHEMA", remote.UserErrors[0].Code)

		cleared := upsert(t, s.Client, map[string]any{"name": "order.placed", "schema": nil, "strict": false}, map[string]any{"force": true})
		require.Empty(t, cleared.UserErrors)
		require.Equal(t, "null", string(cleared.EventType.Schema))
	})
}

func TestC3_DeprecatedAndArchivedTypes(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		require.Empty(t, upsert(t, s.Client, map[string]any{"name": "order.placed", "status": "DEPRECATED"}, nil).UserErrors)
		early := create(t, s.Client, receiver.URL(), map[string]any{"eventTypes": []string{"order.placed"}})
		eventually(t, s.Client, emit(t, s.Client, "order.placed", `{}`), "SUCCEEDED")

		require.Empty(t, upsert(t, s.Client, map[string]any{"name": "order.placed", "status": "ARCHIVED"}, nil).UserErrors)
		require.Equal(t, "NOT_ALLOWED_NOW", tryEmit(t, s.Client, "order.placed", `{}`, nil).UserErrors[0].Code)
		var late struct{ CreateWebhook created }
		s.Query(t, createWebhook, map[string]any{"input": map[string]any{
			"name": "late", "targetUrl": receiver.URL(), "eventTypes": []string{"order.placed"},
		}}, &late)
		require.Equal(t, "NOT_ALLOWED_NOW", late.CreateWebhook.UserErrors[0].Code)

		var renamed struct{ UpdateWebhook created }
		s.Query(t, `mutation($id: ID!) { updateWebhook(id: $id, input: {name: "renamed"}) { webhook { id } userErrors { code message } } }`,
			map[string]any{"id": early.Webhook.ID}, &renamed)
		require.Empty(t, renamed.UpdateWebhook.UserErrors, "what the webhook has it keeps")
	})
}

// A change of the catalogue that was answered by one process holds for the next call of another.
func TestC2_EveryProcessKnowsAtOnce(t *testing.T) {
	t.Parallel()
	env := apptest.Environment(t, apptest.Production)
	one, two := apptest.StartWith(t, app.RoleAll, env), apptest.StartWith(t, app.RoleAPI, env)
	order := map[string]any{"name": "order.placed", "strict": true}
	for n := range 20 {
		// A field that no earlier round knew is required: data of the round before is refused.
		field := "field" + string(rune('a'+n))
		order["schema"] = map[string]any{"type": "object", "required": []string{field}}
		require.Empty(t, upsert(t, one.Client, order, nil).UserErrors)
		require.Len(t, tryEmit(t, two.Client, "order.placed", `{}`, nil).UserErrors, 1)
		require.Empty(t, tryEmit(t, two.Client, "order.placed", `{"`+field+`":1}`, nil).UserErrors)
		one, two = two, one
	}
	order["status"] = "ARCHIVED"
	require.Empty(t, upsert(t, one.Client, order, nil).UserErrors)
	require.Equal(t, "NOT_ALLOWED_NOW", tryEmit(t, two.Client, "order.placed", `{"fieldt":1}`, nil).UserErrors[0].Code)
}

// The catalogue is for platform administrators to change, and for everybody with READ to read.
func TestA1_CatalogueScopes(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	acme := tenantKey(t, s.Client, "acme", "MANAGE")
	a, err := acme.Post(t.Context(), `mutation { upsertEventType(input: {name: "a.b"}) { brokenWebhookCount } }`, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"FORBIDDEN"}, a.Codes())
	acme.Query(t, `{ eventCatalogueSdl eventTypes { nodes { graphqlType } } }`, nil, nil)
	a, err = tenantKey(t, s.Client, "acme", "EMIT").Post(t.Context(), `{ eventCatalogueSdl }`, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"FORBIDDEN"}, a.Codes())
}
