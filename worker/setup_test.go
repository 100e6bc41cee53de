package worker_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker"
)

const (
	tenant    = "acme"
	eventType = "participant.created"
	eventData = `{"participant":{"id":"p_1","n":1.10}}`
	// within bounds every wait.
	within = 30 * time.Second
)

// stack is a database and a queue that workers share.
type stack struct {
	store   *models.Store
	queue   *queue.Conn
	keyring *signing.Keyring
	log     *logText
	notices *notices
}

// logText keeps what was logged.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// notice is one call of EmitNotice.
type notice struct{ tenant, eventType, data, key, except string }

// notices takes the place of intake, which is a neighbour: it keeps what it is told, each key once.
type notices struct {
	mu   sync.Mutex
	all  []notice
	fail error
}

func (n *notices) EmitNotice(_ context.Context, tenant, eventType string, data []byte, key, except string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	for _, known := range n.all {
		if known.key == key {
			return nil
		}
	}
	n.all = append(n.all, notice{tenant, eventType, string(data), key, except})
	return nil
}

func (n *notices) got() []notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]notice(nil), n.all...)
}

func (n *notices) failWith(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = err
}

// onEach runs test on the embedded stack and on Postgres with Redis.
func onEach(t *testing.T, test func(t *testing.T, s *stack)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, embedded(t))
	})
	t.Run("production", func(t *testing.T) {
		t.Parallel()
		test(t, production(t))
	})
}

func embedded(t testing.TB) *stack {
	t.Helper()
	return newStack(t, modelstest.SQLiteFile(t), "")
}

func production(t testing.TB) *stack {
	t.Helper()
	return newStack(t, modelstest.PostgresURL(t), testenv.RedisURL(t))
}

func newStack(t testing.TB, dsn, redisURL string) *stack {
	t.Helper()
	// The tests share two cores, so nobody is in a hurry.
	store := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: within, WorkTimeout: within})
	s := &stack{store: store, log: &logText{}, notices: &notices{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", s.log.String())
		}
	})
	var err error
	s.keyring, err = signing.ParseKeyring(signing.GenerateMasterKey())
	require.NoError(t, err)
	s.queue, err = queue.Open(context.Background(), queue.Options{RedisURL: redisURL, Logger: s.logger()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.queue.Close()) })
	return s
}

func (s *stack) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// process is a worker.
type process struct {
	*worker.Worker
	s       *stack
	metrics *prometheus.Registry
	client  *egress.Client

	concurrency int
	stop        func() // once; the test's end does it too
}

// bare starts a worker that nothing feeds: tests call its Handle. roots are the authorities that it
// trusts.
func (s *stack) bare(t testing.TB, roots *x509.CertPool, change ...func(*worker.Options)) *process {
	t.Helper()
	p := &process{s: s, metrics: prometheus.NewRegistry()}
	p.client = egress.NewClient(egress.Options{
		Guard: egress.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), RootCAs: roots,
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	options := worker.Options{
		Store: s.store, Keyring: s.keyring, Client: p.client, Queue: s.queue, Logger: s.logger(), Registerer: p.metrics, Version: "test",
		Timeout: 5 * time.Second, Schedule: []time.Duration{50 * time.Millisecond, 50 * time.Millisecond},
		Concurrency: 64, WebhookShare: 0.25, RetryAfterMax: 24 * time.Hour, Redis: s.queue.Client(),
		Breaker:      worker.BreakerOptions{Window: time.Minute, Cooldown: 30 * time.Second, MinAttempts: 20, Threshold: 0.5},
		DisableAfter: 5 * 24 * time.Hour, Notifier: s.notices,
	}
	for _, c := range change {
		c(&options)
	}
	p.concurrency = options.Concurrency
	var err error
	p.Worker, err = worker.New(options)
	require.NoError(t, err)
	p.Start()
	p.stop = sync.OnceFunc(func() {
		stopping, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		if err := p.Stop(stopping); err != nil {
			t.Errorf("stop worker: %v", err)
		}
		p.client.Close()
	})
	t.Cleanup(p.stop)
	return p
}

// drive attempts the delivery whenever it is due until it has ended.
func (p *process) drive(t testing.TB, id string) models.Delivery {
	t.Helper()
	var d models.Delivery
	p.s.eventually(t, func() (bool, string) {
		require.NoError(t, p.Handle(t.Context(), []string{id}))
		d = p.s.delivery(t, id)
		return !d.Status.Open(), describe(d)
	})
	return d
}

// start runs a worker that the queue feeds, with its duties.
func (s *stack) start(t testing.TB, change ...func(*worker.Options)) *process {
	t.Helper()
	p := s.bare(t, nil, change...)
	server := queue.NewServer(s.queue, queue.ServerOptions{
		// As app does.
		Concurrency: p.concurrency + 64, Handler: p.Handle, Logger: s.logger(), ShutdownTimeout: 2 * time.Second,
	})
	require.NoError(t, server.Start())
	reconciler := queue.NewReconciler(s.queue, s.store, queue.ReconcilerOptions{Interval: time.Second, Logger: s.logger()})
	ctx, cancel := context.WithCancel(context.Background())
	var duties sync.WaitGroup
	duties.Go(func() { _ = reconciler.Run(ctx) })
	duties.Go(func() { _ = p.RunHealth(ctx) })
	bare := p.stop
	p.stop = sync.OnceFunc(func() {
		cancel()
		duties.Wait()
		server.Stop()
		bare()
	})
	t.Cleanup(p.stop)
	return p
}

// webhook stores one that is sent to url, and the key that it is signed with.
func (s *stack) webhook(t testing.TB, url string, edit ...func(*models.Webhook)) (w models.Webhook, secret string) {
	t.Helper()
	key, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(t, err)
	w = models.Webhook{
		ID: models.NewID(models.PrefixWebhook), Tenant: tenant, Name: "CRM Sync", TargetURL: url,
		EventTypes: models.StringList{eventType}, Signing: models.SigningHMAC,
	}
	w.SealedKey, err = s.keyring.SealSecret(key, w.ID)
	require.NoError(t, err)
	for _, e := range edit {
		e(&w)
	}
	require.NoError(t, s.store.CreateWebhook(context.Background(), &w))
	return w, key.Reveal()
}

// emit commits n events with a delivery to each of the webhooks, and puts them into the queue.
func (s *stack) emit(t testing.TB, n int, webhooks ...models.Webhook) []models.Delivery {
	return s.emitAs(t, n, models.TriggerAutomatic, webhooks...)
}

func (s *stack) emitAs(t testing.TB, n int, trigger models.Trigger, webhooks ...models.Webhook) []models.Delivery {
	t.Helper()
	var all []models.Delivery
	for n > 0 {
		page := min(n, 250)
		n -= page
		data := eventData
		results, err := s.store.CommitEvents(context.Background(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
			events := make([]models.NewEvent, page)
			for i := range events {
				events[i].Event = models.Event{Tenant: tenant, EventType: eventType, Data: &data, Matched: len(webhooks)}
				for _, w := range webhooks {
					events[i].Deliveries = append(events[i].Deliveries, models.Delivery{
						WebhookID: w.ID, Revision: w.Revision, Trigger: trigger, AttemptTrigger: trigger,
					})
				}
			}
			return events, nil
		})
		require.NoError(t, err)
		var items []queue.Item
		for _, r := range results {
			require.NoError(t, r.Err)
			all = append(all, r.Deliveries...)
			for _, d := range r.Deliveries {
				items = append(items, queue.Item{DeliveryID: d.ID})
			}
		}
		s.queue.EnqueueAsync(items)
	}
	return all
}

// remind puts a page of deliveries that became due on the queue.
func (s *stack) remind(ctx context.Context, page []models.Due) error {
	items := make([]queue.Item, len(page))
	for n, d := range page {
		items[n] = queue.Item{DeliveryID: d.DeliveryID, Attempt: d.AttemptCount, At: d.NextAttemptAt}
	}
	return s.queue.Enqueue(ctx, items)
}

func (s *stack) delivery(t testing.TB, id string) models.Delivery {
	t.Helper()
	d, err := s.store.Tenant(models.Reach{All: true}).Delivery(context.Background(), id)
	require.NoError(t, err)
	return d
}

func (s *stack) attempts(t testing.TB, id string) []models.Attempt {
	t.Helper()
	all, err := s.store.Tenant(models.Reach{All: true}).AttemptsOf(context.Background(), []string{id})
	require.NoError(t, err)
	return all[id]
}

// until waits for the delivery to be as ok wants it.
func (s *stack) until(t testing.TB, id string, ok func(models.Delivery) bool) models.Delivery {
	t.Helper()
	var d models.Delivery
	s.eventually(t, func() (bool, string) {
		d = s.delivery(t, id)
		return ok(d), describe(d)
	})
	return d
}

func (s *stack) ended(t testing.TB, id string) models.Delivery {
	t.Helper()
	return s.until(t, id, func(d models.Delivery) bool { return !d.Status.Open() })
}

func describe(d models.Delivery) string {
	reason, detail := "", ""
	if d.StatusReason != nil {
		reason = string(*d.StatusReason)
	}
	if d.StatusDetail != nil {
		detail = *d.StatusDetail
	}
	return fmt.Sprintf("%s %s %s (%q), %d attempts, next %v", d.ID, d.Status, reason, detail, d.AttemptCount, d.NextAttemptAt)
}

func (s *stack) eventually(t testing.TB, ok func() (done bool, state string)) {
	t.Helper()
	testenv.Eventually(t, within, ok)
}
