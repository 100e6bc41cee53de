package control_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
)

// fixture is a Control over a real store, and the callers that a test needs.
type fixture struct {
	*control.Control
	store   *models.Store
	dsn     string
	keyring *signing.Keyring
	queue   *recorder
	tester  *tester
	lookups *resolver

	platform, acme, other *auth.Principal
}

// each runs test on a Control over each database.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, setup(t, modelstest.SQLiteFile(t)))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, setup(t, modelstest.PostgresURL(t)))
	})
}

func setup(t *testing.T, dsn string) *fixture {
	t.Helper()
	// The tests share two cores, so nobody is in a hurry.
	store := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: time.Minute, WorkTimeout: time.Minute})
	require.NoError(t, store.EnsureBuiltinTypes(t.Context(), catalogue.Builtin()))
	keyring, err := signing.ParseKeyring(signing.GenerateMasterKey())
	require.NoError(t, err)
	manage := []models.Scope{models.ScopeManage}
	f := &fixture{
		store: store, dsn: dsn, keyring: keyring, queue: &recorder{}, tester: &tester{}, lookups: &resolver{},
		platform: &auth.Principal{ID: "key_platform", Scopes: []models.Scope{models.ScopeAdmin}},
		acme:     &auth.Principal{ID: "key_acme", Tenant: new("acme"), Scopes: manage},
		other:    &auth.Principal{ID: "key_other", Tenant: new("other"), Scopes: manage},
	}
	f.Control = control.New(control.Options{
		Store: store, Keyring: keyring, Guard: egress.NewGuard(nil), Lookup: f.lookups.lookup, Queue: f.queue, Tester: f.tester,
		Catalogue: func(ctx context.Context) (*catalogue.Catalogue, error) {
			types, err := store.AllEventTypes(ctx)
			if err != nil {
				return nil, err
			}
			return catalogue.New(types)
		},
		Logger:   slog.New(slog.DiscardHandler),
		Defaults: control.Defaults{Timeout: 15 * time.Second, Schedule: models.Schedule{5 * time.Second}},
	})
	return f
}

// recorder keeps what was put on the queue, and fails when told to.
type recorder struct {
	mu    sync.Mutex
	items []queue.Item
	err   error
}

func (r *recorder) Enqueue(_ context.Context, items []queue.Item) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, items...)
	return r.err
}

// tester keeps what was to be sent as a test.
type tester struct {
	mu        sync.Mutex
	webhookID string
	eventType string
	data      string
}

func (s *tester) EmitTest(_ context.Context, w models.Webhook, eventType string, data []byte, known models.Problems) (models.Delivery, error) {
	if err := known.Err(); err != nil {
		return models.Delivery{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhookID, s.eventType, s.data = w.ID, eventType, string(data)
	return models.Delivery{ID: models.NewID(models.PrefixDelivery), WebhookID: w.ID, EventType: eventType}, nil
}

// resolver answers for a few names, and counts.
type resolver struct {
	before func() // called before each answer, where it is set

	mu    sync.Mutex
	count int
}

func (r *resolver) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if r.before != nil {
		r.before()
	}
	r.mu.Lock()
	r.count++
	r.mu.Unlock()
	switch host {
	case "internal.example":
		return []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("10.0.0.1")}, nil
	case "missing.example":
		return nil, errors.New("no such host")
	default:
		return []netip.Addr{netip.MustParseAddr("8.8.8.8")}, nil
	}
}

// input is a webhook with which nothing is wrong.
func input(change func(*control.WebhookInput)) control.WebhookInput {
	in := control.WebhookInput{
		Name: "CRM Sync", TargetURL: "https://crm.example/hooks", EventTypes: []string{"participant.created"},
	}
	if change != nil {
		change(&in)
	}
	return in
}

func (f *fixture) create(t *testing.T, change func(*control.WebhookInput)) models.Webhook {
	t.Helper()
	w, _, err := f.CreateWebhook(t.Context(), f.acme, input(change))
	require.NoError(t, err)
	return w
}

// found is a problem without its message.
type found struct {
	code models.ProblemCode
	path string
}

// requireProblems wants exactly these problems, in any order, each with a message.
func requireProblems(t *testing.T, err error, want ...found) models.Problems {
	t.Helper()
	var problems models.Problems
	require.ErrorAs(t, err, &problems)
	got := make([]found, len(problems))
	for i, p := range problems {
		require.NotEmpty(t, p.Message)
		got[i].code = p.Code
		for n, part := range p.Path {
			if n > 0 {
				got[i].path += "."
			}
			got[i].path += part
		}
	}
	require.ElementsMatch(t, want, got)
	return problems
}

func set[T any](v T) control.Field[T] { return control.Field[T]{Set: true, Value: &v} }

func null[T any]() control.Field[T] { return control.Field[T]{Set: true} }

// race makes n calls at once and gives the errors of those that failed.
func race(n int, call func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = call(i) })
	}
	all.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
