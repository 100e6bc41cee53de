// Package intake takes events in: it validates them, decides which webhooks they go to, writes
// many callers' events in one commit, and reminds the queue of what became due.
//
// What it hides is the order that makes an answer trustworthy. Matching happens before the
// commit, in the caller's goroutine, against a snapshot of the tenant's webhooks that is kept in
// memory. The commit's transaction then reads the config epoch under a lock that every change of
// configuration takes exclusively: where the snapshot is older, what changed is loaded and the
// events concerned are matched anew inside that transaction. So an answered change is seen by
// every later event of any process, without a read per event.
//
// Invariants: when Emit answers without an error the event and all its deliveries are
// committed; one caller's bad event never fails another's; a queue that is away delays a
// delivery and never fails an event.
package intake

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/batch"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// Enqueuer puts deliveries on the queue without waiting. It may drop them: the reconciler repairs.
type Enqueuer interface {
	EnqueueAsync(items []queue.Item)
}

// Options is what New needs. All fields are required unless they say otherwise.
type Options struct {
	Store  *models.Store
	Queue  Enqueuer
	Logger *slog.Logger
	// MaxEventBytes bounds an event's compact data.
	MaxEventBytes int
	// MaxBatch bounds the events of one call; graph checks it before it calls Emit.
	MaxBatch int
	// IdempotencyWindow is how long an idempotency key answers with its first event.
	IdempotencyWindow time.Duration
	// CommitTimeout bounds one commit, and how long a caller waits for its own, the one before it
	// included, while the database is away.
	CommitTimeout time.Duration
	Now           func() time.Time
}

// Input is one event as a caller sends it.
type Input struct {
	EventType      string
	Data           []byte // JSON text as it came
	Timestamp      *time.Time
	DeliverAt      *time.Time
	IdempotencyKey *string
	Tenant         *string
}

// Output is what became of one Input. Err is nil, models.Problems with paths relative to the
// input, *models.UnavailableError, or an error of auth's where another tenant was named.
type Output struct {
	Event     *models.Event
	Duplicate bool
	Matched   int
	Err       error
}

// Intake takes events in. It is safe for concurrent use between Start and Stop.
type Intake struct {
	opt       Options
	committer *batch.Committer[*item, Output]
	worker    Attempter
	took      time.Duration // the last commit; flush alone uses it
	snapshots snapshots
	stats     Stats
}

// Stats counts what was taken in; read it with Intake.Stats.
type Stats struct {
	mu         sync.Mutex
	accepted   uint64
	duplicates uint64
}

// Accepted is how many events were committed; Duplicates how many calls found theirs already
// there.
func (s *Stats) Accepted() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.accepted }

// Duplicates is how many calls were answered with an event of an earlier call.
func (s *Stats) Duplicates() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.duplicates }

// New makes an Intake; Start must be called before Emit answers.
func New(opt Options) *Intake {
	i := &Intake{opt: opt}
	i.snapshots.store = opt.Store
	i.committer = batch.New(batch.Options[*item, Output]{MaxBatch: 64, MaxWaiting: 50_000, Flush: i.flush})
	return i
}

// Stats tells what was taken in since the start.
func (i *Intake) Stats() *Stats { return &i.stats }

// MaxBatch is the most events that one call may carry.
func (i *Intake) MaxBatch() int { return i.opt.MaxBatch }

// Emit takes the inputs in, each by itself: one output an input, in their order. They are written
// in that order too: of two under one idempotency key the first is the event, and lists show a
// batch as it came.
func (i *Intake) Emit(ctx context.Context, p *auth.Principal, inputs []Input) []Output {
	outputs := make([]Output, len(inputs))
	items := make([]*item, len(inputs))
	prepare := func(n int, s stamp) { items[n], outputs[n].Err = i.prepare(ctx, p, inputs[n], s) }
	if len(inputs) == 1 {
		prepare(0, i.stamp())
	} else {
		now := i.opt.Now()
		var all sync.WaitGroup
		for n := range inputs {
			// Made here and not there: ids go by the order of the inputs.
			s := stamp{id: models.NewID(models.PrefixEvent), now: now}
			all.Go(func() { prepare(n, s) })
		}
		all.Wait()
	}
	good := make([]*item, 0, len(items))
	places := make([]int, 0, len(items))
	for n, it := range items {
		if outputs[n].Err == nil {
			good, places = append(good, it), append(places, n)
		}
	}
	for k, out := range i.commit(ctx, good...) {
		outputs[places[k]] = out
	}
	return outputs
}

// stamp is what an event has from its coming in alone.
type stamp struct {
	id  string
	now time.Time
}

func (i *Intake) stamp() stamp {
	return stamp{id: models.NewID(models.PrefixEvent), now: i.opt.Now()}
}

// commit writes the items in their order and gives an answer for each.
func (i *Intake) commit(ctx context.Context, items ...*item) []Output {
	// The commit before this one may take all of its time, and this one then all of its own: the
	// caller hears of it after once that time, not after twice.
	ctx, cancel := context.WithTimeout(ctx, i.opt.CommitTimeout)
	defer cancel()
	outputs := make([]Output, len(items))
	for n, result := range i.committer.DoAll(ctx, items) {
		switch err := result.Err; {
		case err == nil:
			outputs[n] = result.Value
		case errors.Is(err, batch.ErrBusy):
			outputs[n].Err = &models.UnavailableError{Err: err}
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			outputs[n].Err = &models.UnavailableError{Err: err, OutcomeUnknown: errors.Is(err, batch.ErrOutcomeUnknown)}
		default:
			outputs[n].Err = err
		}
	}
	return outputs
}

// Draft is the event that Emit would make of the input, which is checked in the same way. Nothing is
// written. An idempotency key is not looked up.
func (i *Intake) Draft(ctx context.Context, p *auth.Principal, in Input) (models.Event, error) {
	it, err := i.prepare(ctx, p, in, i.stamp())
	if err != nil {
		return models.Event{}, err
	}
	return it.event, nil
}

// EmitTest sends one event of eventType to that webhook alone, whatever it is subscribed to. The
// event is marked as a test: lists and replays leave it out. What is known to be wrong with the call
// already is told together with all else, and then nothing is sent.
func (i *Intake) EmitTest(ctx context.Context, webhook models.Webhook, eventType string, data []byte, known models.Problems) (models.Delivery, error) {
	it, err := i.prepareFor(ctx, webhook.Tenant, Input{EventType: eventType, Data: data}, i.stamp(), known)
	if err != nil {
		return models.Delivery{}, err
	}
	it.event.Test = true
	it.only = &webhook
	if out := i.commit(ctx, it); out[0].Err != nil {
		return models.Delivery{}, out[0].Err
	}
	return it.deliveries[0], nil
}

// EmitNotice records an event of the system's own about a webhook and delivers it to the
// tenant's webhooks that named its type, never to the webhook that it is about.
func (i *Intake) EmitNotice(ctx context.Context, tenant, eventType string, data []byte, key, exceptWebhookID string) error {
	it, err := i.prepareFor(ctx, tenant, Input{EventType: eventType, Data: data, IdempotencyKey: &key}, i.stamp(), nil)
	if err != nil {
		return err
	}
	it.except = exceptWebhookID
	return i.commit(ctx, it)[0].Err
}

// Catalogue is the catalogue as of the newest change, for checks at save.
func (i *Intake) Catalogue(ctx context.Context) (*catalogue.Catalogue, error) {
	snap, err := i.snapshots.fresh(ctx)
	if err != nil {
		return nil, err
	}
	return snap.catalogue, nil
}

// Start begins to write what callers bring. worker attempts what becomes due in this process; nil: none
// does, all goes through the queue.
func (i *Intake) Start(worker Attempter) {
	i.worker = worker
	i.committer.Start()
}

// Stop writes what callers brought before and answers them, bounded by ctx.
func (i *Intake) Stop(ctx context.Context) error { return i.committer.Stop(ctx) }
