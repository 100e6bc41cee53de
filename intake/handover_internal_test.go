package intake

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/queue"
)

// room is an Attempter with a number of places, which keeps what it is given.
type room struct {
	mu       sync.Mutex
	places   int
	reserved int
	park     time.Duration // 0: no webhook is full
	claims   []models.Claim
}

func (r *room) Reserve(deliveries []*models.Delivery) ([]models.Reserved, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reserved := make([]models.Reserved, len(deliveries))
	for n := range reserved {
		switch {
		case r.park > 0:
			reserved[n] = models.Reserved{Wait: r.park, Reason: models.ReasonRateLimited, Detail: models.DetailShare}
		case r.reserved < r.places:
			reserved[n].Held = true
			r.reserved++
		}
	}
	return reserved, time.Minute
}

func (r *room) Release(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserved -= n
}

func (r *room) Attempt(claims []models.Claim, _ time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims = append(r.claims, claims...)
}

// reminders keeps what the queue is told.
type reminders struct {
	mu    sync.Mutex
	items []queue.Item
}

func (r *reminders) EnqueueAsync(items []queue.Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, items...)
}

// taking is an Intake on store, not started, with a webhook for created participants.
func taking(t *testing.T, store *models.Store, told *reminders) (*Intake, models.Webhook) {
	t.Helper()
	require.NoError(t, store.EnsureBuiltinTypes(t.Context(), catalogue.Builtin()))
	w := models.Webhook{
		Tenant: "acme", Name: "CRM Sync", TargetURL: "https://crm.example/hook",
		EventTypes: models.StringList{"participant.created"}, Signing: models.SigningHMAC, SealedKey: "sealed",
	}
	require.NoError(t, store.CreateWebhook(t.Context(), &w))
	i := New(Options{
		Store: store, Queue: told, Logger: slog.New(slog.DiscardHandler), MaxEventBytes: 256 << 10, MaxBatch: 100,
		IdempotencyWindow: time.Hour, CommitTimeout: time.Minute, Now: time.Now,
	})
	t.Cleanup(func() { require.NoError(t, i.Stop(context.WithoutCancel(t.Context()))) })
	return i, w
}

func created(key string) Input {
	in := Input{EventType: "participant.created", Data: []byte(`{"participant":{"id":"p_1","n":1.10}}`)}
	if key != "" {
		in.IdempotencyKey = &key
	}
	return in
}

var acme = &auth.Principal{ID: "test", Tenant: new("acme"), Scopes: []models.Scope{models.ScopeEmit}}

// What there is room for is given to the worker as a claim would give it, and the queue is told of all.
func TestHandover(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		var told reminders
		i, w := taking(t, store, &told)
		worker := &room{places: 3}
		i.Start(worker)
		outputs := i.Emit(t.Context(), acme, []Input{created("a"), created("a"), created(""), created(""), created("")})
		for _, out := range outputs {
			require.NoError(t, out.Err)
		}
		require.True(t, outputs[1].Duplicate)
		assert.Len(t, told.items, 4)
		assert.Equal(t, len(worker.claims), worker.reserved, "what was reserved for the duplicate is given back")
		require.NotEmpty(t, worker.claims)

		claimed := worker.claims[0]
		event, err := store.Tenant(models.Reach{All: true}).Event(t.Context(), claimed.EventID)
		require.NoError(t, err)
		assert.Equal(t, models.Claim{
			DeliveryID: claimed.DeliveryID, Tenant: "acme", EventID: event.ID, WebhookID: w.ID, WebhookRevision: w.Revision,
			EventType: event.EventType, EventTimestamp: event.Timestamp, Data: *event.Data, Number: 1, Trigger: models.TriggerAutomatic,
			Token: claimed.Token, ClaimedAt: event.CreatedAt, CreatedAt: event.CreatedAt,
		}, claimed)

		ids := make([]string, len(told.items))
		for n, item := range told.items {
			ids[n] = item.DeliveryID
		}
		free, err := store.Claim(t.Context(), ids, "another", time.Minute)
		require.NoError(t, err)
		assert.Len(t, free.Claimed, len(told.items)-len(worker.claims), "the queue's workers get the others")
	})
}

// What is not due, or may not be sent, is not handed over, nor is anything after a slow commit.
func TestHandover_NotEverything(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	var told reminders
	i, w := taking(t, store, &told)
	worker := &room{places: 10}
	i.Start(worker)
	i.took = slowCommit
	emit := func(in Input) {
		t.Helper()
		defer func() { i.took = 0 }() // however busy the machine is
		require.NoError(t, i.Emit(t.Context(), acme, []Input{in})[0].Err)
	}
	emit(created(""))
	assert.Empty(t, worker.claims, "the commit before was slow")

	later := created("")
	later.DeliverAt = new(time.Now().Add(time.Hour))
	emit(later)
	assert.Empty(t, worker.claims, "it is for later")

	_, err := i.EmitTest(t.Context(), w, "participant.created", []byte(`{}`), nil)
	require.NoError(t, err)
	assert.Empty(t, worker.claims, "a test's webhook was read before")

	_, err = store.SetWebhookStatus(t.Context(), models.Reach{All: true}, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
	require.NoError(t, err)
	emit(created(""))
	assert.Empty(t, worker.claims, "the webhook is paused")
	assert.Zero(t, worker.reserved)

	_, err = store.SetWebhookStatus(t.Context(), models.Reach{All: true}, w.ID, models.WebhookActive, models.ReasonByUser, nil)
	require.NoError(t, err)
	emit(created(""))
	assert.Len(t, worker.claims, 1)
}

// What would find no slot of its webhook is parked with its commit, and the queue is told when it comes.
func TestHandover_ParksWhatItsWebhookHasNoSlotFor(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		var told reminders
		i, w := taking(t, store, &told)
		i.Start(&room{park: time.Hour})
		require.NoError(t, i.Emit(t.Context(), acme, []Input{created("")})[0].Err)
		require.Len(t, told.items, 1)
		at := told.items[0].At
		assert.Greater(t, time.Until(at), 50*time.Minute)
		due, err := store.Unpark(t.Context(), w.ID, 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		assert.Equal(t, told.items[0].DeliveryID, due[0].DeliveryID)
		claims, err := store.Claim(t.Context(), []string{due[0].DeliveryID}, "t", time.Minute)
		require.NoError(t, err)
		require.Len(t, claims.Claimed, 1)
		assert.True(t, claims.Claimed[0].Parked)
		assert.Equal(t, models.ReasonRateLimited, claims.Claimed[0].Waited)
	})
}
