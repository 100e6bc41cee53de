package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/batch"
)

// BreakerOptions says when a webhook's circuit opens; all fields are required.
type BreakerOptions struct {
	// Window is how far back attempts count, to a twentieth of it; Cooldown how long an open
	// circuit waits for its probe.
	Window, Cooldown time.Duration
	// MinAttempts in the window, of which at least the part Threshold failed, open it.
	MinAttempts int
	Threshold   float64
}

// circuits are the circuit breakers of the webhooks, shared by all workers in Redis. They go
//
//	CLOSED → OPEN       when enough attempts in the window failed
//	OPEN → HALF_OPEN    when the cooldown is over and a delivery is there to probe with, one over
//	                    all workers; a probe whose worker dies is given to another
//	HALF_OPEN → CLOSED  when the probe succeeds; → OPEN when it fails
//
// Every attempt that is not a success is a failure, with these exceptions, which count as
// nothing: an attempt that we cut off, one to a target that the guard refused (nothing was sent), and
// one that the receiver asked to give up, which is a proper answer. Manual and test attempts pass an
// open circuit, since a person waits for them; they count, and one that succeeds closes it.
// Attempts that began before the circuit opened count as nothing when they end after.
//
// A webhook that does not fail costs Redis nothing: successes are kept here until a failure, of this
// worker or another, needs them. Workers hear at once, and learn within pollEvery in any case, whose
// circuits others have opened and closed, and which webhooks fail elsewhere. Without Redis each process breaks its circuits by what it sees itself.
type circuits struct {
	opt   BreakerOptions
	redis redis.UniversalClient
	log   *slog.Logger
	base  time.Time

	reports *batch.Committer[circuitReport, struct{}]
	asks    *batch.Committer[circuitAsk, circuitAnswer]

	poked  chan struct{} // a circuit changed, look now
	closed chan string   // webhooks whose circuit has closed, as far as is known here

	mu    sync.Mutex
	views map[string]*circuitView
}

const (
	// circuitBuckets is how many parts of the window are counted by themselves.
	circuitBuckets = 20
	// pollEvery is how often a worker looks which circuits others have opened and closed.
	pollEvery = 500 * time.Millisecond
	// probeGap keeps the second delivery that was held back until a fast probe is over.
	probeGap = time.Second
	// heldReturn is the distance between those that come back after: what a circuit that stays open
	// costs is bounded by it. They are fetched earlier when it closes.
	heldReturn = 100 * time.Millisecond
	// heldLate is how long one that is told to wait takes to be written down, at most, as a rule.
	heldLate = time.Second
	// maxClosed is how many circuits that have closed may wait for somebody to fetch what they held. What is
	// held by more than that comes at its time.
	maxClosed = 1024
	// probeGrace is what a probe may take beyond its attempt's timeout.
	probeGrace = 5 * time.Second
	// circuitMemory is how long after its cooldown an open circuit without any delivery is kept.
	circuitMemory = time.Hour

	circuitKeys     = "webhooks:{circuit}:"
	circuitsOpen    = circuitKeys + "open"
	circuitsWatched = circuitKeys + "watched"
	circuitsChannel = circuitKeys + "changed"
)

// circuitView is what this process knows of one webhook.
type circuitView struct {
	open       bool // not CLOSED, as far as is known here
	generation int  // raised with every opening
	changed    time.Time
	touched    time.Time
	failed     time.Time // the last failure of any worker: while it is in the window all is reported
	unsent     map[int64]tally
	alone      lonely
	held       time.Time // up to when those that asked here come back
	until      time.Time // until when it is open for certain
}

// tally counts attempts of one bucket.
type tally struct{ attempts, failures int }

// verdict is what an attempt tells of its receiver.
type verdict int

const (
	tellsNothing verdict = iota
	tellsWell
	tellsBroken
)

// pass is the leave to make one attempt. It is settled once.
type pass struct {
	webhookID  string
	generation int
	token      string // of the probe that this is; "": none
	forced     bool   // it passed an open circuit because a person waits
	alone      bool   // a probe without Redis
}

type circuitAsk struct {
	webhookID string
	lease     time.Duration
	created   time.Time
}

// circuitAnswer is leave to attempt, with a token if as a probe, or the time to wait.
type circuitAnswer struct {
	granted bool
	token   string
	wait    time.Duration
}

type circuitReport struct {
	webhookID, token string
	verdict          verdict
}

func newCircuits(opt BreakerOptions, client redis.UniversalClient, log *slog.Logger) *circuits {
	c := &circuits{opt: opt, redis: client, log: log, base: time.Now(), poked: make(chan struct{}, 1), closed: make(chan string, maxClosed), views: map[string]*circuitView{}}
	c.reports = batch.New(batch.Options[circuitReport, struct{}]{Flush: c.report})
	c.asks = batch.New(batch.Options[circuitAsk, circuitAnswer]{Flush: c.answer})
	return c
}

// pass asks for leave to attempt a delivery that was created then; person says that one waits for
// it. Without leave, wait is how long to hold the delivery back.
func (c *circuits) pass(ctx context.Context, webhookID string, person bool, timeout time.Duration, created time.Time) (leave *pass, wait time.Duration) {
	c.mu.Lock()
	v := c.view(webhookID)
	open, leave := v.isOpen(), &pass{webhookID: webhookID, generation: v.generation}
	c.mu.Unlock()
	if !open {
		return leave, 0
	}
	if person {
		leave.forced = true
		return leave, 0
	}
	a, err := c.asks.Do(ctx, circuitAsk{webhookID: webhookID, lease: timeout + probeGrace, created: created})
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if wait = c.view(webhookID).alone.ask(time.Now(), c.opt.Cooldown); wait > 0 {
			return nil, wait
		}
		leave.alone = true
		return leave, 0
	}
	if !a.granted {
		return nil, a.wait
	}
	leave.token = a.token
	if a.token == "" {
		// It closed meanwhile: this attempt counts as any other from here on.
		c.mu.Lock()
		defer c.mu.Unlock()
		leave.generation = c.view(webhookID).generation
	}
	return leave, 0
}

// open says that a delivery to the webhook has to ask before it passes.
func (c *circuits) open(webhookID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.views[webhookID]
	return v != nil && v.isOpen()
}

// change does something to a view and tells where it closed the circuit. The lock is held.
func (c *circuits) change(webhookID string, v *circuitView, do func()) {
	was := v.isOpen()
	do()
	if !was || v.isOpen() {
		return
	}
	select {
	case c.closed <- webhookID:
	default:
	}
}

func (v *circuitView) isOpen() bool { return v.open || v.alone.open() }

// settle says what came of an attempt. It does not wait for Redis.
func (c *circuits) settle(p *pass, told verdict) {
	now := time.Now()
	c.mu.Lock()
	v := c.view(p.webhookID)
	report := circuitReport{webhookID: p.webhookID, token: p.token, verdict: told}
	send := p.token != ""
	switch {
	case p.alone:
		c.change(p.webhookID, v, func() { v.alone.settle(now, told, c.opt.Cooldown) })
		if !v.alone.open() {
			v.unsent = nil
		}
	case p.forced:
		// No probe has this token: a failure changes nothing.
		report.token = "person"
		send = told == tellsWell
		if send {
			c.change(p.webhookID, v, func() { v.alone = lonely{} })
		}
	case p.token == "" && told != tellsNothing && p.generation == v.generation && !v.open:
		v.count(c.bucket(now), told)
		if told == tellsBroken {
			v.failed = now
		}
		send = !v.failed.IsZero() && now.Sub(v.failed) < c.opt.Window
	}
	c.mu.Unlock()
	if send {
		// What is refused because too much waits is told with the next failure.
		_ = c.reports.Submit(report, func(struct{}, error) {})
	}
}

func (c *circuits) view(webhookID string) *circuitView {
	v := c.views[webhookID]
	if v == nil {
		v = &circuitView{}
		c.views[webhookID] = v
	}
	v.touched = time.Now()
	return v
}

func (c *circuits) bucketLength() time.Duration {
	return max(c.opt.Window/circuitBuckets, time.Microsecond)
}

func (c *circuits) bucket(now time.Time) int64 { return int64(now.Sub(c.base) / c.bucketLength()) }

func (v *circuitView) count(bucket int64, told verdict) {
	for b := range v.unsent {
		if b <= bucket-circuitBuckets {
			delete(v.unsent, b)
		}
	}
	if v.unsent == nil {
		v.unsent = map[int64]tally{}
	}
	t := v.unsent[bucket]
	t.attempts++
	if told == tellsBroken {
		t.failures++
	}
	v.unsent[bucket] = t
}
