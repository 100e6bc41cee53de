// Package worker turns due deliveries into signed requests and writes down what came of them.
//
// It hides how a delivery is attempted exactly when it may be. A task names deliveries; the
// worker first makes room, then claims them in one statement that checks everything (due, open,
// webhook active, nobody else's), attempts those it got at once and concurrently, and records
// each outcome together with the outcomes of its neighbours in one transaction. What it may not
// send now (its webhook holds too many slots, is too fast, or its circuit is open) goes back
// unstarted, with a later due time, and costs no attempt.
//
// Deliveries also come without a task: those that this very process has committed, claimed by their
// commit for as many as there was room. Their tasks find them under way, and wait for their end.
//
// Invariants: a claimed attempt starts within startWithin or is given back, so that a pause or a
// deletion that waited for claims to settle can promise that nothing starts later; an attempt
// that was made is recorded, however long the database is away, as long as the process lives.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/intervengine/webhooks/batch"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
)

const (
	// startWithin is how soon after its claim an attempt must start. Mutations that stop a webhook
	// wait for claims younger than a second, so it must stay below that.
	startWithin = 900 * time.Millisecond
	// lease is how long a claim stands without being extended. A worker that dies is noticed after
	// it, so it bounds how late the next attempt is.
	lease = 30 * time.Second
	// extendEvery is how often the claims of attempts that are still running are extended.
	extendEvery = 10 * time.Second
)

// Enqueuer puts deliveries on the queue without waiting. It may drop them: the reconciler repairs.
type Enqueuer interface {
	EnqueueAsync(items []queue.Item)
}

// Options is what New needs; all fields are required.
type Options struct {
	Store      *models.Store
	Keyring    *signing.Keyring
	Client     *egress.Client
	Queue      Enqueuer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Version goes into the user agent.
	Version string
	// Timeout and Schedule are those of webhooks that have none of their own.
	Timeout  time.Duration
	Schedule []time.Duration
	// Concurrency is how many attempts run at once; WebhookShare what part of them one webhook may hold.
	Concurrency  int
	WebhookShare float64
	// RetryAfterMax caps a receiver's Retry-After.
	RetryAfterMax time.Duration
	// Redis is where workers share rate limits and circuit breakers: the queue's own.
	Redis   redis.UniversalClient
	Breaker BreakerOptions
	// DisableAfter is how long a webhook may only fail before it is disabled.
	DisableAfter time.Duration
	// Notifier takes the notices about webhooks that fail and are disabled.
	Notifier Notifier
}

// maxLines bounds the deliveries that stand in line for a slot of their webhook, all together.
const maxLines = 8192

// errStopping sends a task back to the queue: another worker, or the next start, takes it.
var errStopping = errors.New("worker is stopping")

// Worker attempts deliveries. It is safe for concurrent use between Start and Stop.
type Worker struct {
	opt       Options
	receivers *receivers
	room      *room
	share     *share
	lines     *semaphore.Weighted
	limiter   *limiter
	starts    *starts
	circuits  *circuits
	health    *health
	claimer   *batch.Committer[string, claim]
	recorder  *batch.Committer[models.AttemptRecord, models.Recorded]
	releaser  *batch.Committer[models.Release, models.Recorded]
	running   *inFlight
	later     chan string // webhooks of which parked deliveries are to be looked for
	metrics   *metrics

	// attempts is the life of the attempts themselves: it outlasts the tasks that began them and
	// ends only when a stop runs out of grace.
	attempts context.Context
	abort    context.CancelFunc
	duties   sync.WaitGroup
	stopping chan struct{}
	stopOnce sync.Once
}

// New makes a Worker; Start must be called before Handle.
func New(opt Options) (*Worker, error) {
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	w := &Worker{
		opt: opt,
		receivers: &receivers{
			store: opt.Store, keyring: opt.Keyring, timeout: opt.Timeout, schedule: opt.Schedule,
			byID: map[string]*receiver{}, complained: map[string]time.Time{},
		},
		room:     newRoom(opt.Concurrency),
		share:    newShare(int(float64(opt.Concurrency)*opt.WebhookShare), time.Now),
		starts:   newStarts(),
		lines:    semaphore.NewWeighted(maxLines),
		limiter:  newLimiter(opt.Redis),
		circuits: newCircuits(opt.Breaker, opt.Redis, opt.Logger),
		health:   newHealth(opt),
		running:  newInFlight(),
		later:    make(chan string, maxClosed),
		metrics:  m,
		stopping: make(chan struct{}),
	}
	w.attempts, w.abort = context.WithCancel(context.Background())
	w.claimer = batch.New(batch.Options[string, claim]{Flush: w.claim})
	w.recorder = batch.New(batch.Options[models.AttemptRecord, models.Recorded]{Flush: w.record})
	w.releaser = batch.New(batch.Options[models.Release, models.Recorded]{Flush: w.release})
	return w, nil
}

// Start begins to claim, record and extend for Handle.
func (w *Worker) Start() {
	w.claimer.Start()
	w.recorder.Start()
	w.releaser.Start()
	w.limiter.start(context.WithoutCancel(w.attempts))
	w.circuits.asks.Start()
	w.circuits.reports.Start()
	w.duties.Go(w.extend)
	w.duties.Go(func() { w.circuits.watch(w.stopping) })
	w.duties.Go(func() { w.circuits.listen(w.stopping) })
	w.duties.Go(w.reopen)
}

// Stop ends the worker after its tasks were stopped: attempts that still run are cut off and
// handed back, and what came of the others is written down.
func (w *Worker) Stop(ctx context.Context) error {
	w.abort()
	// No place taken in the lines and in the room means that every attempt has ended and was
	// recorded or handed back.
	err := w.lines.Acquire(ctx, maxLines)
	if err == nil {
		err = w.room.empty(ctx)
	}
	w.stopOnce.Do(func() { close(w.stopping) })
	w.duties.Wait()
	return errors.Join(err, w.claimer.Stop(ctx), w.recorder.Stop(ctx), w.releaser.Stop(ctx),
		w.limiter.stop(ctx), w.circuits.asks.Stop(ctx), w.circuits.reports.Stop(ctx))
}

// Handle attempts the deliveries that ids name, as far as they are due, and returns when all that
// it attempted is recorded. An error means a fault of ours: the task will come again.
func (w *Worker) Handle(ctx context.Context, ids []string) error {
	ids, underWay := w.running.split(ids)
	if err := w.handle(ctx, ids); err != nil {
		return err
	}
	var open []string
	for id, r := range underWay {
		select {
		case <-r.ended:
		case <-ctx.Done():
			return errStopping
		}
		if !r.succeeded {
			open = append(open, id) // the task may be the next attempt's, come before this one had ended
		}
	}
	return w.handle(ctx, open)
}

// handle is Handle for deliveries that are not under way here.
func (w *Worker) handle(ctx context.Context, ids []string) error {
	var all sync.WaitGroup
	defer all.Wait()
	if len(ids) == 0 {
		return nil
	}
	visitor := w.room.task(slices.Min(ids))
	defer visitor.leave()
	for len(ids) > 0 {
		// Room before the claim: what is claimed must start at once.
		places, err := visitor.enter(ctx, len(ids))
		if err != nil {
			return fmt.Errorf("wait for room: %w", err)
		}
		if w.attempts.Err() != nil {
			w.room.leave(places)
			return errStopping
		}
		claims, err := w.claimAll(ctx, ids[:places])
		w.room.leave(places - len(claims))
		for _, c := range claims {
			r := w.running.add(c)
			all.Go(func() { w.deliver(c, r) })
		}
		spawned()
		if err != nil {
			return err
		}
		ids = ids[places:]
	}
	return nil
}

// claimAll claims each id together with whatever other tasks are claiming at the moment.
func (w *Worker) claimAll(ctx context.Context, ids []string) ([]claim, error) {
	type answer struct {
		claim claim
		err   error
	}
	answers := make(chan answer, len(ids))
	// All at once: what is claimed together goes in order.
	waiting, errs := w.claimer.SubmitAll(ids, func(_ int, c claim, err error) { answers <- answer{c, err} })
	claims := make([]claim, 0, waiting)
	for range waiting {
		a := <-answers
		switch {
		case a.err != nil:
			errs = a.err
		case a.claim.Claim != nil:
			claims = append(claims, a.claim)
		}
	}
	if errs != nil {
		w.opt.Logger.WarnContext(ctx, "deliveries not claimed, the task will come again", "error", errs)
		errs = fmt.Errorf("claim: %w", errs)
	}
	return claims, errs
}

// claim is the claimer's flush: one statement for the ids of many tasks.
func (w *Worker) claim(ctx context.Context, ids []string) ([]batch.Result[claim], error) {
	// The database's time of the claim is later than this, never earlier.
	at := time.Now()
	claims, err := w.opt.Store.Claim(ctx, ids, uuid.NewString(), lease)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*models.Claim, len(claims.Claimed))
	for n := range claims.Claimed {
		byID[claims.Claimed[n].DeliveryID] = &claims.Claimed[n]
	}
	all := make([]claim, len(ids))
	for n, id := range ids {
		all[n] = claim{Claim: byID[id], at: at}
		// The same id twice in a batch is one attempt.
		delete(byID, id)
	}
	together(all)
	w.takeSlots(all)
	results := make([]batch.Result[claim], len(ids))
	for n, c := range all {
		results[n].Value = c
	}
	if len(claims.Later) > 0 {
		later := make([]queue.Item, len(claims.Later))
		for n, l := range claims.Later {
			later[n] = queue.Item{DeliveryID: l.DeliveryID, Attempt: l.AttemptCount, At: l.NextAttemptAt}
		}
		w.opt.Queue.EnqueueAsync(later)
	}
	return results, nil
}
