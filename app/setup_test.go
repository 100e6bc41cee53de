package app_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// userError is what a caller could put right.
type userError struct {
	Code    string
	Message string
	Field   []string
	Pointer *string
}

// webhook is what tests read of one.
type webhook struct{ ID, Status string }

// created is a webhook with its secret key.
type created struct {
	Webhook    *webhook
	SecretKey  *string
	UserErrors []userError
}

const createWebhook = `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) {
	webhook { id status } secretKey userErrors { code message field } } }`

// create makes a webhook on all event types to url, changed by more. It must succeed.
func create(t testing.TB, api *apptest.Client, url string, more map[string]any) created {
	t.Helper()
	input := map[string]any{"name": "test", "targetUrl": url, "eventTypes": []string{"*"}}
	maps.Copy(input, more)
	var out struct{ CreateWebhook created }
	api.Query(t, createWebhook, map[string]any{"input": input}, &out)
	require.Empty(t, out.CreateWebhook.UserErrors)
	return out.CreateWebhook
}

// emitted is the answer to an emit.
type emitted struct {
	Event      *struct{ ID string }
	Duplicate  bool
	Matched    int
	UserErrors []userError
}

const emitEvent = `mutation($input: EmitEventInput!) { emitEvent(input: $input) {
	event { id } duplicate matched userErrors { code message field pointer } } }`

// tryEmit emits an event and gives the answer, good or bad.
func tryEmit(t testing.TB, api *apptest.Client, eventType, data string, more map[string]any) emitted {
	t.Helper()
	input := map[string]any{"eventType": eventType, "data": json.RawMessage(data)}
	maps.Copy(input, more)
	var out struct{ EmitEvent emitted }
	api.Query(t, emitEvent, map[string]any{"input": input}, &out)
	return out.EmitEvent
}

// emit emits an event, which must succeed, and gives its id.
func emit(t testing.TB, api *apptest.Client, eventType, data string) string {
	t.Helper()
	out := tryEmit(t, api, eventType, data, nil)
	require.Empty(t, out.UserErrors)
	require.NotNil(t, out.Event)
	return out.Event.ID
}

// delivered is what tests read of a delivery.
type delivered struct {
	ID, Status, Trigger string
	StatusReason        *string
	AttemptCount        int
	Webhook             struct{ ID string }
}

// deliveries are those of an event, newest first.
func deliveries(t testing.TB, api *apptest.Client, eventID string) []delivered {
	t.Helper()
	var out struct {
		Event struct{ Deliveries struct{ Nodes []delivered } }
	}
	api.Query(t, `query($id: ID!) { event(id: $id) { deliveries(first: 100) {
		nodes { id status statusReason trigger attemptCount webhook { id } } } } }`, map[string]any{"id": eventID}, &out)
	return out.Event.Deliveries.Nodes
}

// eventually waits until all deliveries of an event have this status, at least one of them.
func eventually(t testing.TB, api *apptest.Client, eventID, status string) []delivered {
	t.Helper()
	var list []delivered
	apptest.Eventually(t, func() (bool, string) {
		list = deliveries(t, api, eventID)
		text, err := json.Marshal(list)
		require.NoError(t, err)
		for _, d := range list {
			if d.Status != status {
				return false, string(text)
			}
		}
		return len(list) > 0, string(text)
	})
	return list
}

// tenantKey makes a key of a tenant with these scopes and gives the server under it.
func tenantKey(t testing.TB, api *apptest.Client, tenant string, scopes ...string) *apptest.Client {
	t.Helper()
	var out struct {
		CreateAPIKey struct {
			Key        string
			UserErrors []userError
		} `json:"createApiKey"`
	}
	api.Query(t, `mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { key userErrors { code message } } }`,
		map[string]any{"input": map[string]any{"name": "test", "tenant": tenant, "scopes": scopes}}, &out)
	require.Empty(t, out.CreateAPIKey.UserErrors)
	return api.As(out.CreateAPIKey.Key)
}
