package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// stops are the mutations whose answer says that nothing starts any more, by name: of a webhook, a delivery or an event.
var stops = []struct{ name, takes, mutation string }{
	{"pause", "webhook", `pauseWebhook(id: $id) { webhook { id } userErrors { code } }`},
	{"disable", "webhook", `disableWebhook(id: $id) { webhook { id } userErrors { code } }`},
	{"delete", "webhook", `deleteWebhook(id: $id) { deletedId userErrors { code } }`},
	{"new URL", "webhook", `updateWebhook(id: $id, input: {targetUrl: $url}) { webhook { id } userErrors { code } }`},
	{"cancel", "delivery", `cancelDelivery(deliveryId: $id) { delivery { id } userErrors { code } }`},
	{"erase", "event", `eraseEvent(id: $id) { event { id } userErrors { code } }`},
}

// I3: an attempt is due at some moment, and within 50 ms of it, before or after, comes what forbids it: no request starts
// after that was answered.
func TestFaultStops_NothingStartsAfterTheAnswer(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, none: true})
		receiver := receivertest.New(t, receivertest.Default(receivertest.Delay(5*time.Millisecond, receivertest.Status(200))))
		r := &races{world: w, receiver: receiver, answered: map[string]time.Time{}, how: map[string]string{}}
		var next atomic.Int64
		var lanes sync.WaitGroup
		for range 12 {
			lanes.Go(func() {
				for n := next.Add(1); n <= int64(either(120, 10_000)) && !t.Failed(); n = next.Add(1) {
					assert.NoError(t, r.race(t.Context(), int(n)))
				}
			})
		}
		lanes.Wait()
		w.ended(time.Now().Add(leaseOver), map[string]any{})

		came, stopped := 0, len(r.answered)
		for _, request := range receiver.Requests() {
			answered, ok := r.answered[request.Path]
			if !ok {
				continue // to the new URL
			}
			came++
			if late := request.At.Sub(answered); late > 0 {
				t.Errorf("%s: a request came %s after the answer", r.how[request.Path], late)
			}
		}
		t.Logf("%d stops, %d of them after the request", stopped, came)
		require.Positive(t, came)
		require.Less(t, came, stopped)
	})
}

// races are what was stopped when.
type races struct {
	*world
	receiver *receivertest.Receiver

	mu       sync.Mutex
	answered map[string]time.Time // by path
	how      map[string]string
}

// race makes a webhook and an event to it, whose attempt it stops about when it is due.
func (r *races) race(ctx context.Context, n int) error {
	api, tenant, path := r.clients[n%len(r.clients)], "race-"+strconv.Itoa(n), "/"+strconv.Itoa(n)
	target := strings.TrimSuffix(r.receiver.URL(), receivertest.Path)
	var made struct{ CreateWebhook created }
	err := ask(ctx, api, `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } userErrors { code message } } }`,
		map[string]any{"input": map[string]any{
			"name": "race", "targetUrl": target + path, "eventTypes": []string{"message.sent"}, "tenant": tenant, "retrySchedule": []string{},
		}}, &made)
	if err != nil || made.CreateWebhook.Webhook == nil {
		return fmt.Errorf("createWebhook: %w, %+v", err, made)
	}
	webhookID := made.CreateWebhook.Webhook.ID

	// Half of them come with their emit, half at their time. Those that are to be cancelled have the time to be found first.
	stop := stops[n%len(stops)]
	input := map[string]any{"eventType": "message.sent", "data": map[string]any{"n": n}, "tenant": tenant}
	scheduled, due := stop.takes == "delivery" || n%4 < 2, time.Now()
	if scheduled {
		due = due.Add(200 * time.Millisecond)
		input["deliverAt"] = due
	}
	var out struct {
		EmitEvent struct {
			Event *struct {
				ID         string
				Deliveries struct{ Nodes []struct{ ID string } }
			}
		}
	}
	err = ask(ctx, api, `mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id deliveries { nodes { id } } } } }`,
		map[string]any{"input": input}, &out)
	if err != nil || out.EmitEvent.Event == nil || len(out.EmitEvent.Event.Deliveries.Nodes) != 1 {
		return fmt.Errorf("emitEvent: %w, %+v", err, out)
	}
	ids := map[string]string{"webhook": webhookID, "delivery": out.EmitEvent.Event.Deliveries.Nodes[0].ID, "event": out.EmitEvent.Event.ID}
	r.pass(time.Until(due) + rand.N(100*time.Millisecond) - 50*time.Millisecond)

	text, in := "mutation($id: ID!) { "+stop.mutation+" }", map[string]any{"id": ids[stop.takes]}
	if strings.Contains(stop.mutation, "$url") {
		text, in["url"] = "mutation($id: ID!, $url: URL!) { "+stop.mutation+" }", target+"/new"+path
	}
	var told map[string]struct{ UserErrors []userError }
	if err := ask(ctx, api, text, in, &told); err != nil {
		return fmt.Errorf("%s: %w", stop.name, err)
	}
	answered := time.Now()
	for _, answer := range told {
		if len(answer.UserErrors) > 0 && (stop.name != "cancel" || answer.UserErrors[0].Code != "NOT_ALLOWED_NOW") {
			return fmt.Errorf("%s: %+v", stop.name, answer.UserErrors)
		}
	}
	r.mu.Lock()
	r.answered[path], r.how[path] = answered, stop.name
	r.mu.Unlock()
	return nil
}

// ask is a query outside of the test's own goroutine.
func ask(ctx context.Context, api *apptest.Client, text string, in map[string]any, out any) error {
	a, err := api.Post(ctx, text, in)
	if err != nil {
		return err
	}
	if len(a.Errors) > 0 {
		return fmt.Errorf("%s", a.Body)
	}
	return json.Unmarshal(a.Data, out)
}
