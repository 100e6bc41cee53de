package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// emitters calls emitEvent from several callers until told to stop, and remembers what was
// answered without an error.
type emitters struct {
	mu       sync.Mutex
	accepted []string
	failed   int
}

// Each caller makes at most one call in a pace; 0: one after the other.
func (e *emitters) run(ctx context.Context, api *apptest.Client, callers int, pace time.Duration) {
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				next := time.Now().Add(pace)
				a, err := api.Post(ctx, `mutation($data: JSON!, $key: String!) { emitEvent(input: {eventType: "message.sent", data: $data, idempotencyKey: $key}) { event { id } } }`,
					map[string]any{"data": map[string]any{"caller": caller, "n": n}, "key": fmt.Sprintf("%p-%d-%d", ctx, caller, n)})
				id := ""
				if err == nil && len(a.Errors) == 0 {
					id = eventID(a.Data)
				}
				e.mu.Lock()
				if id != "" {
					e.accepted = append(e.accepted, id)
				} else {
					e.failed++
				}
				e.mu.Unlock()
				if err != nil {
					return // the server is gone: this caller's next try is in the next round
				}
				select {
				case <-time.After(time.Until(next)):
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
}

func (e *emitters) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.accepted)
}

// E1, and faults 1, 2, 3 and 5: whatever was answered is delivered, though every process is killed
// at a random moment, again and again.
func TestE1_NothingAcceptedIsLostWhenEverythingIsKilled(t *testing.T) {
	t.Parallel()
	rounds, wanted, longest := either(20, 200), either(1, 250_000), either(150*time.Millisecond, 6*time.Second)
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		receiver := receivertest.New(t)
		env := apptest.Environment(t, stack)
		env["LISTEN_ADDR"] = freeAddr(t)
		env["RECONCILE_INTERVAL"] = "1s"
		env["RETRY_SCHEDULE"] = "200ms,200ms,200ms,200ms,200ms,200ms,200ms,200ms,200ms,200ms"
		workerEnv := map[string]string{}
		maps.Copy(workerEnv, env)
		workerEnv["LISTEN_ADDR"] = "127.0.0.1:0"
		boot := func() []*process {
			if stack == apptest.Embedded {
				return []*process{start(t, env, "serve")}
			}
			return []*process{start(t, env, "api"), start(t, workerEnv, "worker")}
		}

		processes := boot()
		api := apptest.NewClient(processes[0].url(), env["ADMIN_API_KEY"])
		var created struct {
			CreateWebhook struct {
				SecretKey  string
				UserErrors []struct{ Message string }
			}
		}
		api.Query(t, `mutation($url: URL!) { createWebhook(input: {name: "all", targetUrl: $url, eventTypes: ["*"]}) { secretKey userErrors { message } } }`,
			map[string]any{"url": receiver.URL()}, &created)
		require.Empty(t, created.CreateWebhook.UserErrors)
		receiver.Secret(created.CreateWebhook.SecretKey)

		var emitted emitters
		kills := 0
		for ; kills < rounds || emitted.count() < wanted; kills++ {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				emitted.run(ctx, api, 8, either(0, 16*time.Millisecond)) // 500 a second
			}()
			before := emitted.count()
			apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
				return emitted.count() > before, "no call was accepted"
			})
			// The moment is random on purpose: that is what is tested, not waited for.
			select {
			case <-time.After(time.Duration(rand.Int64N(int64(longest)))):
			case <-t.Context().Done():
			}
			for _, n := range rand.Perm(len(processes)) {
				processes[n].kill()
			}
			cancel()
			<-done
			processes = boot()
			for _, p := range processes {
				p.url()
			}
		}

		accepted := emitted.accepted
		t.Logf("%d events were accepted over %d kills, %d calls failed", len(accepted), kills, emitted.failed)
		// What was claimed when its worker was killed comes again within a minute (D11).
		apptest.EventuallyWithin(t, either(90*time.Second, 10*time.Minute), func() (bool, string) {
			got := map[string]bool{}
			for _, r := range receiver.Requests() {
				// A sender that is killed may leave half a request behind; that is not a delivery.
				if r.BodyErr == nil {
					got[r.ID()] = true
				}
			}
			missing := slices.DeleteFunc(slices.Clone(accepted), func(id string) bool { return got[id] })
			return len(missing) == 0, fmt.Sprintf("%d of %d accepted events have not come: %v", len(missing), len(accepted), missing[:min(len(missing), 5)])
		})
		for _, r := range receiver.Requests() {
			if r.BodyErr == nil {
				require.NoError(t, r.SignatureErr)
			}
		}
		// And the history ends well: nothing is open, nothing failed.
		apptest.Eventually(t, func() (bool, string) {
			var out struct {
				Deliveries struct{ Nodes []struct{ ID, Status string } }
			}
			api.Query(t, `{ deliveries(first: 100, filter: {statuses: [PENDING, RETRYING, HELD, FAILED, CANCELLED, SKIPPED]}) { nodes { id status } } }`, nil, &out)
			return len(out.Deliveries.Nodes) == 0, fmt.Sprint(out.Deliveries.Nodes)
		})
		for _, p := range processes {
			p.stop()
		}
	})
}
