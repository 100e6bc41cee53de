package app_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// replay is what tests read of one.
type replay struct {
	ID, Status                     string
	Total, Done, Succeeded, Failed int
	FinishedAt                     *string
	Webhook                        webhook
}

const replayFields = `id status total done succeeded failed finishedAt webhook { id }`

// replayed is the answer to replayDeliveries.
type replayed struct {
	Replay     *replay
	Count      int
	UserErrors []userError
}

// replayDeliveries asks for a replay of the last hour, changed by more.
func replayDeliveries(t testing.TB, api *apptest.Client, webhookID string, dryRun bool, more map[string]any) replayed {
	t.Helper()
	input := map[string]any{"webhookId": webhookID, "since": time.Now().Add(-time.Hour).Truncate(time.Hour)}
	maps.Copy(input, more)
	var out struct{ ReplayDeliveries replayed }
	api.Query(t, `mutation($input: ReplayInput!, $dryRun: Boolean!) { replayDeliveries(input: $input, dryRun: $dryRun) {
		replay { `+replayFields+` } count userErrors { code message field } } }`, map[string]any{"input": input, "dryRun": dryRun}, &out)
	return out.ReplayDeliveries
}

// finished waits until a replay has ended so.
func finished(t testing.TB, api *apptest.Client, id, status string) replay {
	t.Helper()
	var out struct{ Replay *replay }
	apptest.Eventually(t, func() (bool, string) {
		api.Query(t, `query($id: ID!) { replay(id: $id) { `+replayFields+` } }`, map[string]any{"id": id}, &out)
		return out.Replay.Status == status && out.Replay.FinishedAt != nil, fmt.Sprintf("%+v", *out.Replay)
	})
	return *out.Replay
}

func TestH3_Replay(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		w := create(t, s.Client, receiver.URL(), map[string]any{"retrySchedule": []string{}})
		receiver.Secret(*w.SecretKey)
		id := w.Webhook.ID
		receiver.Answer(receivertest.Status(500))
		var failed []string
		for n := range 3 {
			failed = append(failed, emit(t, s.Client, "participant.created", fmt.Sprintf(`{"participant":{"id":"p%d","n":1.10}}`, n)))
		}
		for _, e := range failed {
			eventually(t, s.Client, e, "FAILED")
		}
		receiver.Answer(receivertest.Status(200))
		ok := emit(t, s.Client, "message.sent", `{}`)
		eventually(t, s.Client, ok, "SUCCEEDED")
		s.Query(t, `mutation($id: ID!) { testWebhook(id: $id, eventType: "message.sent") { delivery { id } } }`, map[string]any{"id": id}, nil)
		receiver.Wait(t, 5)

		count := func(more map[string]any) int {
			dry := replayDeliveries(t, s.Client, id, true, more)
			require.Empty(t, dry.UserErrors)
			require.Nil(t, dry.Replay)
			return dry.Count
		}
		require.Equal(t, 4, count(nil))
		require.Equal(t, 3, count(map[string]any{"statuses": []string{"FAILED", "CANCELLED"}}))
		require.Equal(t, 1, count(map[string]any{"eventTypes": []string{"message.sent"}}))
		require.Equal(t, 0, count(map[string]any{"statuses": []string{"PENDING"}}), "what is open is sent by itself")
		require.Equal(t, 0, count(map[string]any{"until": time.Now().Add(-time.Minute)}))
		require.Equal(t, 4, count(map[string]any{"until": time.Now().Add(time.Hour), "includeUnmatched": true}))
		require.Len(t, receiver.Requests(), 5, "counting sends nothing")

		// Under the current configuration: a new URL, shape and filter.
		second := receivertest.New(t, receivertest.Secret(*w.SecretKey))
		var updated struct{ UpdateWebhook created }
		s.Query(t, `mutation($id: ID!, $input: UpdateWebhookInput!) { updateWebhook(id: $id, input: $input) { userErrors { code message field } } }`,
			map[string]any{"id": id, "input": map[string]any{
				"targetUrl": second.URL(), "filter": "data.participant.id != 'p1'", "eventTypes": []string{"participant.created"},
				"payloadQuery": "subscription { event { ... on ParticipantCreated { participant { id } } } }",
			}}, &updated)
		require.Empty(t, updated.UpdateWebhook.UserErrors)
		failures := map[string]any{"statuses": []string{"FAILED"}}
		require.Equal(t, 2, count(failures))
		started := replayDeliveries(t, s.Client, id, false, failures)
		require.Empty(t, started.UserErrors)
		require.Equal(t, 2, started.Count)
		require.Equal(t, id, started.Replay.Webhook.ID)
		done := finished(t, s.Client, started.Replay.ID, "COMPLETED")
		require.Equal(t, replay{
			ID: started.Replay.ID, Status: "COMPLETED", Total: 2, Done: 2, Succeeded: 2, FinishedAt: done.FinishedAt, Webhook: done.Webhook,
		}, done)
		for _, e := range []string{failed[0], failed[2]} {
			list := deliveries(t, s.Client, e)
			require.Len(t, list, 2)
			require.Equal(t, "REPLAY", list[0].Trigger)
			require.Equal(t, "SUCCEEDED", list[0].Status)
			require.Equal(t, "FAILED", list[1].Status, "the old delivery stays as it was")
			sent := second.ByID(e)
			require.Len(t, sent, 1, "the same webhook-id, once")
			require.NoError(t, sent[0].SignatureErr)
			require.Contains(t, string(sent[0].Body), `"data":{"participant":{"id":"p`)
		}
		require.Len(t, second.Requests(), 2)
		require.Equal(t, 0, count(failures), "what a replay delivered has not failed any more")

		// Explanations tell of the event's own delivery.
		require.Equal(t, "FAILED", explain(t, s.Client, failed[0], nil).Nodes[0].Delivery.Status)
		require.Equal(t, "MATCHED", explain(t, s.Client, failed[1], nil).Nodes[0].Verdict)
	})
}

func TestH3_ReplayToAWebhookCreatedLater(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		var want []string
		for n := range 150 {
			e := emit(t, s.Client, "participant.created", fmt.Sprintf(`{"participant":{"id":"p%d"},"n":%d}`, n, n))
			if n%2 == 0 {
				want = append(want, e)
			}
		}
		gone := emit(t, s.Client, "participant.created", `{"n":2}`)
		s.Query(t, eraseEvent, map[string]any{"id": gone}, nil)
		emit(t, s.Client, "message.sent", `{"n":2}`)
		receiver := receivertest.New(t)
		w := create(t, s.Client, receiver.URL(), map[string]any{"eventTypes": []string{"participant.*"}, "filter": "int(data.n) % 2 == 0"})
		id := w.Webhook.ID
		require.Equal(t, 0, replayDeliveries(t, s.Client, id, true, nil).Count)
		unmatched := map[string]any{"includeUnmatched": true, "idempotencyKey": "once"}
		require.Equal(t, len(want), replayDeliveries(t, s.Client, id, true, unmatched).Count)
		started := replayDeliveries(t, s.Client, id, false, unmatched)
		require.Empty(t, started.UserErrors)
		require.Equal(t, len(want), started.Count)

		same := replayDeliveries(t, s.Client, id, false, unmatched)
		require.Equal(t, started.Replay.ID, same.Replay.ID)
		require.Equal(t, started.Count, same.Count)
		other := replayDeliveries(t, s.Client, id, false, map[string]any{"idempotencyKey": "once"})
		require.Equal(t, "IDEMPOTENCY_MISMATCH", other.UserErrors[0].Code)

		done := finished(t, s.Client, started.Replay.ID, "COMPLETED")
		require.Equal(t, len(want), done.Total)
		require.Equal(t, len(want), done.Succeeded)
		var got []string
		for _, r := range receiver.Requests() {
			got = append(got, r.ID())
		}
		slices.Sort(got)
		slices.Sort(want)
		require.Equal(t, want, got)
		require.Equal(t, 0, replayDeliveries(t, s.Client, id, true, map[string]any{"includeUnmatched": true, "statuses": []string{"FAILED"}}).Count)
		require.Equal(t, "CREATED_LATER", explain(t, s.Client, want[0], nil).Nodes[0].Verdict, "though a replay sent it")

		var listed struct{ Replays struct{ Nodes []replay } }
		s.Query(t, `query($id: ID!) { replays(webhookId: $id) { nodes { `+replayFields+` } } }`, map[string]any{"id": id}, &listed)
		require.Equal(t, []replay{done}, listed.Replays.Nodes)
		var node struct{ Node replay }
		s.Query(t, `query($id: ID!) { node(id: $id) { ... on Replay { `+replayFields+` } } }`, map[string]any{"id": done.ID}, &node)
		require.Equal(t, done, node.Node)
	})
}

func TestH3_CancelReplay(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		for range 100 {
			emit(t, s.Client, "message.sent", `{}`)
		}
		receiver := receivertest.New(t)
		id := create(t, s.Client, receiver.URL(), nil).Webhook.ID
		s.Query(t, `mutation($id: ID!) { pauseWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": id}, nil)
		all := map[string]any{"includeUnmatched": true}
		started := replayDeliveries(t, s.Client, id, false, all)
		require.Empty(t, started.UserErrors)
		held := func() int {
			var out struct{ Deliveries struct{ Nodes []delivered } }
			s.Query(t, `query($id: ID!) { deliveries(first: 100, filter: {webhookId: $id, statuses: [HELD]}) { nodes { id trigger } } }`, map[string]any{"id": id}, &out)
			return len(out.Deliveries.Nodes)
		}
		apptest.Eventually(t, func() (bool, string) { n := held(); return n == 100, strconv.Itoa(n) })

		const cancelReplay = `mutation($id: ID!) { cancelReplay(id: $id) { replay { ` + replayFields + ` } userErrors { code message field } } }`
		var out struct{ CancelReplay replayed }
		rival := tenantKey(t, s.Client, "rival", "MANAGE")
		rival.Query(t, cancelReplay, map[string]any{"id": started.Replay.ID}, &out)
		require.Equal(t, "NOT_FOUND", out.CancelReplay.UserErrors[0].Code)
		var none struct {
			Replay, Node *replay
			Replays      struct{ Nodes []replay }
		}
		rival.Query(t, `query($id: ID!, $webhook: ID) { replay(id: $id) { id } node(id: $id) { id } replays(webhookId: $webhook) { nodes { id } } }`,
			map[string]any{"id": started.Replay.ID, "webhook": id}, &none)
		require.Nil(t, none.Replay)
		require.Nil(t, none.Node)
		require.Empty(t, none.Replays.Nodes)
		require.Equal(t, "NOT_FOUND", replayDeliveries(t, rival, id, true, nil).UserErrors[0].Code)

		s.Query(t, cancelReplay, map[string]any{"id": started.Replay.ID}, &out)
		require.Empty(t, out.CancelReplay.UserErrors)
		require.Equal(t, "CANCELLED", out.CancelReplay.Replay.Status)
		require.Equal(t, 100, out.CancelReplay.Replay.Done)
		require.Zero(t, out.CancelReplay.Replay.Succeeded)
		require.Zero(t, held())
		s.Query(t, `mutation($id: ID!) { resumeWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": id}, nil)

		// What was cancelled can be replayed; a replay that is completed cannot be cancelled.
		again := replayDeliveries(t, s.Client, id, false, map[string]any{"statuses": []string{"CANCELLED"}})
		require.Equal(t, 100, again.Count)
		finished(t, s.Client, again.Replay.ID, "COMPLETED")
		require.Len(t, receiver.Requests(), 100)
		s.Query(t, cancelReplay, map[string]any{"id": again.Replay.ID}, &out)
		require.Equal(t, "NOT_ALLOWED_NOW", out.CancelReplay.UserErrors[0].Code)
	})
}

// A replay whose process ends goes on in the next one, where it stood.
func TestH3_ReplayGoesOnAfterAStop(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		env["SHUTDOWN_GRACE"] = "100ms"
		first := apptest.StartWith(t, app.RoleAll, env)
		const events = 200
		want := make([]string, events)
		for n := range want {
			want[n] = emit(t, first.Client, "message.sent", `{}`)
		}
		receiver := receivertest.New(t, receivertest.Default(receivertest.After(receivertest.Status(200))))
		id := create(t, first.Client, receiver.URL(), nil).Webhook.ID
		started := replayDeliveries(t, first.Client, id, false, map[string]any{"includeUnmatched": true})
		require.Equal(t, events, started.Count)
		receiver.Wait(t, 20)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, first.App.Stop(ctx))
		require.Less(t, len(receiver.Requests()), 100, "a few at a time")
		receiver.Release()
		receiver.Answer(receivertest.Status(200))

		next := apptest.StartWith(t, app.RoleAll, env)
		done := finished(t, next.Client, started.Replay.ID, "COMPLETED")
		require.Equal(t, events, done.Total)
		require.Equal(t, events, done.Succeeded)
		for _, e := range want {
			require.Len(t, deliveries(t, next.Client, e), 1, "one delivery each")
			require.NotEmpty(t, receiver.ByID(e))
		}
	})
}

func TestH3_BadReplays(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t)
	id := create(t, s.Client, receiver.URL(), nil).Webhook.ID
	disabled := create(t, s.Client, receiver.URL(), nil).Webhook.ID
	s.Query(t, `mutation($id: ID!) { disableWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": disabled}, nil)
	deleted := create(t, s.Client, receiver.URL(), nil).Webhook.ID
	s.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": deleted}, nil)
	now := time.Now()
	for name, tc := range map[string]struct {
		webhook string
		input   map[string]any
		want    map[string]string
	}{
		"no webhook":       {"wh_nothing", nil, map[string]string{"input.webhookId": "NOT_FOUND"}},
		"deleted webhook":  {deleted, nil, map[string]string{"input.webhookId": "NOT_FOUND"}},
		"disabled webhook": {disabled, nil, map[string]string{"input.webhookId": "NOT_ALLOWED_NOW"}},
		"window reversed":  {id, map[string]any{"since": now.Add(-time.Minute), "until": now.Add(-time.Hour)}, map[string]string{"input.until": "INVALID"}},
		"window to come":   {id, map[string]any{"since": now.Add(time.Hour)}, map[string]string{"input.since": "INVALID"}},
		"all at once": {
			disabled,
			map[string]any{"since": now.Add(time.Hour), "eventTypes": []string{"message.sent", "no.such"}, "idempotencyKey": strings.Repeat("k", 256)},
			map[string]string{
				"input.webhookId": "NOT_ALLOWED_NOW", "input.since": "INVALID", "input.eventTypes.1": "UNKNOWN_EVENT_TYPE",
				"input.idempotencyKey": "TOO_LONG",
			},
		},
	} {
		for _, dryRun := range []bool{true, false} {
			got := replayDeliveries(t, s.Client, tc.webhook, dryRun, tc.input)
			codes := map[string]string{}
			for _, e := range got.UserErrors {
				codes[strings.Join(e.Field, ".")] = e.Code
			}
			require.Equal(t, tc.want, codes, name)
			require.Nil(t, got.Replay, name)
		}
	}
	var none struct{ Replays struct{ Nodes []replay } }
	s.Query(t, `{ replays { nodes { id } } }`, nil, &none)
	require.Empty(t, none.Replays.Nodes)
}
