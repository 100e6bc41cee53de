package worker

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

const (
	// lateDelay is for a claim that could not start in time: this process or the database is busy,
	// and coming back at once would keep them so.
	lateDelay = time.Second
	// fetchWithin bounds how long parked deliveries are looked for.
	fetchWithin = time.Second
	// faultDelay is what a delivery waits whose webhook cannot be read as it is stored.
	faultDelay = 30 * time.Second
)

const (
	detailRate    = "Waits for its turn: the webhook's rate limit is reached."
	detailCircuit = "The circuit breaker is open: too many of the latest attempts failed. It probes by itself; when it closes, this comes at once."
)

// claim is a claimed delivery. at is when the claim was asked for, by this process's own clock,
// which a stopped process cannot fool.
type claim struct {
	*models.Claim
	at     time.Time
	member *member // among those that were claimed with it
	slot   *slot   // that was taken for it; nil: none yet
	first  *begin  // its place among those that are about to begin; nil: none yet
}

func (c claim) key() models.ClaimKey {
	return models.ClaimKey{DeliveryID: c.DeliveryID, Token: c.Token}
}

// deliver makes one attempt of a claimed delivery and sees it recorded, or gives the claim back. It
// has a place in the room and leaves it; it is among the running as r.
func (w *Worker) deliver(c claim, r *running) {
	defer w.running.end(c, r)
	place := &place{room: w.room, held: true}
	defer place.leave()
	ctx := context.WithoutCancel(w.attempts)
	defer func() {
		if value := recover(); value != nil {
			w.panicked(ctx, c, value)
		}
	}()
	record, release := w.attempt(c, place)
	if release != nil {
		w.giveBack(ctx, *release)
		return
	}
	r.succeeded = w.write(ctx, record) && record.Disposition == models.Succeeded()
}

// attempt passes every gate in turn, the shared ones last, and makes the attempt. A release says
// that none was made.
func (w *Worker) attempt(c claim, place *place) (models.AttemptRecord, *models.Release) {
	defer c.member.leave()
	taken := c.slot
	defer func() { w.dropSlot(taken) }()
	first := c.first
	defer func() {
		if first != nil {
			w.starts.end(first)
		}
	}()
	// Waiting for anything ends when it is too late to start.
	start, cancel := context.WithDeadline(w.attempts, c.at.Add(startWithin))
	defer cancel()
	r, err := w.receivers.get(start, c.WebhookID, c.WebhookRevision)
	if err != nil {
		return models.AttemptRecord{}, w.unreadable(c, err)
	}
	person := forPerson(c.Trigger)
	leave, wait := w.circuits.pass(start, c.WebhookID, person, r.timeout, c.CreatedAt)
	if leave == nil {
		return models.AttemptRecord{}, w.held(c, heldByCircuit, wait)
	}
	told := tellsNothing
	defer func() { w.circuits.settle(leave, told) }()

	// Most of a backlog is too fast, and must not hold slots to be told so.
	grant, release := w.askRate(start, c, r)
	if release != nil {
		return models.AttemptRecord{}, release
	}
	until := start
	if r.rate > 0 {
		var cancel context.CancelFunc
		until, cancel = context.WithDeadline(start, grant.last())
		defer cancel()
	}
	slot := taken
	if taken = nil; slot == nil {
		slot = w.share.take(c.WebhookID, c.Parked, person)
	}
	if !w.stand(until, slot, place) {
		w.limiter.giveBack(grant)
		return models.AttemptRecord{}, w.held(c, heldByShare, slot.after)
	}
	var took time.Duration
	defer func() { w.giveSlot(slot, took) }()

	if r.rate == 0 && first == nil {
		first = w.starts.line(c.Claim)
	}
	if r.rate == 0 {
		w.starts.wait(first)
	}
	var limited *rateStart
	if r.rate > 0 {
		if limited = w.limiter.begin(grant, &r.way); limited == nil {
			return models.AttemptRecord{}, w.held(c, heldByRate, shortestWait)
		}
		defer limited.end()
	}
	started := time.Now()
	if started.Sub(c.at) > startWithin || w.attempts.Err() != nil {
		limited.unused()
		return models.AttemptRecord{}, w.held(c, heldBack, spread(lateDelay))
	}
	now := w.opt.Store.Clock()
	request := egress.Request{
		ID: c.EventID, Target: r.target, Headers: r.headers, Timestamp: now, Timeout: r.timeout,
		Body: models.Envelope(c.EventType, c.EventTimestamp, c.Data), Signer: r.signerAt(now), Version: w.opt.Version,
		StartBy: c.at.Add(startWithin),
	}
	if limited != nil {
		request.Written, request.Answered = limited.written, limited.answered
	} else {
		request.Written = func() { w.starts.end(first) }
	}
	result := w.opt.Client.Do(w.attempts, request)
	// What is told and compared is the database's time, however wrong this process's own clock is.
	result.StartedAt, result.EndedAt = now, now.Add(result.EndedAt.Sub(result.StartedAt))
	if result.OwnFault {
		return models.AttemptRecord{}, w.held(c, heldByFault, spread(lateDelay))
	}
	took = result.EndedAt.Sub(result.StartedAt)
	told = verdictOf(result)
	w.metrics.observe(c, result)
	return w.recordOf(c.Claim, r, request, result), nil
}

// forPerson says that somebody asked for the attempt and waits for it.
func forPerson(t models.Trigger) bool { return t == models.TriggerManual || t == models.TriggerTest }

// askRate waits until the delivery may start as far as its webhook's rate goes. A release says that it may
// not. Without a rate it grants nothing.
func (w *Worker) askRate(start context.Context, c claim, r *receiver) (rateAnswer, *models.Release) {
	if r.rate == 0 {
		return rateAnswer{}, nil
	}
	answer, err := w.limiter.ask(start, rateAsk{
		webhookID: c.WebhookID, revision: c.WebhookRevision, rate: r.rate, returning: waitedForRate(c), created: c.CreatedAt, late: r.way.usually(),
	}, func(ask func()) { c.member.inTurn(c.Claim, ask) })
	switch {
	case err != nil:
		w.opt.Logger.DebugContext(start, "rate limit not known, delivery waits", "delivery", c.DeliveryID, "error", err)
		return rateAnswer{}, w.held(c, heldByRate, spread(unlimitedRetry))
	case !answer.granted:
		return rateAnswer{}, w.held(c, heldByRate, answer.comeBack())
	case !w.limiter.await(start, answer):
		return rateAnswer{}, w.held(c, heldByRate, shortestWait)
	}
	return answer, nil
}

// spread puts those that wait for the same reason apart.
func spread(d time.Duration) time.Duration {
	return d + rand.N(d) //nolint:gosec // spreading load, not guarding anything
}

// coarse rounds a wait up by an eighth at most, so that those that were given back together and wait
// about as long come back in one task.
func coarse(d time.Duration) time.Duration {
	if d < 8*time.Millisecond {
		return d
	}
	step := time.Duration(1) << (bits.Len64(uint64(d)) - 4)
	return (d + step - 1).Truncate(step)
}

// place is a delivery's place in the room.
type place struct {
	room *room
	held bool
}

func (p *place) leave() {
	if p.held {
		p.room.leave(1)
		p.held = false
	}
}

// stand waits in line for the webhook's slot and reports whether it is held. Who stands in line has
// no place in the room: other webhooks' deliveries take it.
func (w *Worker) stand(ctx context.Context, t *slot, p *place) bool {
	if t.isHeld() {
		return true
	}
	if t.after > 0 {
		return false
	}
	if !w.lines.TryAcquire(1) {
		return !w.share.leave(t)
	}
	defer w.lines.Release(1)
	p.leave()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
	if w.share.leave(t) {
		return false
	}
	if p.room.comeBack(ctx) != nil {
		w.giveSlot(t, 0) //nolint:contextcheck // what it fetches is not this delivery's
		t.after = shortestWait
		return false
	}
	p.held = true
	return true
}

// takeSlots takes slots, or places in line, for claims that are about to be attempted, the oldest first; those
// that have a slot begin in that order. Each
// has a goroutine of its own, and which of them runs first is chance. It leaves out those that have something
// else to wait for first.
func (w *Worker) takeSlots(claims []claim) {
	ordered := make([]*claim, 0, len(claims))
	for n := range claims {
		if claims[n].Claim != nil {
			ordered = append(ordered, &claims[n])
		}
	}
	slices.SortFunc(ordered, func(a, b *claim) int { return inOrder(a.Claim, b.Claim) })
	for _, c := range ordered {
		if r := w.receivers.known(c.WebhookID); r != nil && r.revision >= c.WebhookRevision && r.rate == 0 && !w.circuits.open(c.WebhookID) {
			c.slot = w.share.take(c.WebhookID, c.Parked, forPerson(c.Trigger))
			if c.slot.isHeld() {
				c.first = w.starts.line(c.Claim)
			}
		}
	}
}

// dropSlot gives up what takeSlots took, if anything.
func (w *Worker) dropSlot(t *slot) {
	if t != nil && t.after == 0 && !w.share.leave(t) {
		w.giveSlot(t, 0)
	}
}

// giveSlot returns a slot after an attempt that took d, and fetches what is parked where more slots are free.
// Its caller has a place in the room.
func (w *Worker) giveSlot(t *slot, d time.Duration) {
	if fetch := w.share.give(t, d, w.circuits.open(t.webhookID)); fetch > 0 {
		w.duties.Go(func() { w.fetchParked(t.webhookID, fetch) })
	}
}

// reopen fetches what open circuits held back, oldest first, as soon as they close, until the worker stops.
// Without it, what came first would often come last: what is held back asks in turn for as long as it lasts.
// It looks once more for those that were told to wait just before, and are written down only now.
func (w *Worker) reopen() {
	for {
		var id string
		select {
		case <-w.stopping:
			return
		case id = <-w.circuits.closed:
			w.fetchLater(id)
		case id = <-w.later:
			if w.circuits.open(id) {
				continue
			}
		}
		if fetch := w.share.reopened(id); fetch > 0 {
			w.duties.Go(func() { w.fetchParked(id, fetch) })
		}
	}
}

// fetchLater has parked deliveries of a webhook looked for in a while.
func (w *Worker) fetchLater(webhookID string) {
	time.AfterFunc(heldLate, func() {
		select {
		case w.later <- webhookID:
		default: // they come at their time
		}
	})
}

// fetchParked makes as many parked deliveries of a webhook due.
func (w *Worker) fetchParked(webhookID string, fetch int) {
	ctx, cancel := context.WithTimeout(w.attempts, fetchWithin)
	defer cancel()
	due, err := w.opt.Store.Unpark(ctx, webhookID, fetch)
	if err != nil {
		w.opt.Logger.DebugContext(ctx, "deliveries that wait for a slot not fetched, trying again", "webhook", webhookID, "error", err)
		w.fetchLater(webhookID)
	}
	items := make([]queue.Item, len(due))
	for n, one := range due {
		items[n] = queue.Item{DeliveryID: one.DeliveryID, Attempt: one.AttemptCount, At: one.NextAttemptAt}
	}
	w.opt.Queue.EnqueueAsync(items)
	w.share.fetched(webhookID, err == nil && len(due) < fetch)
}

// waitedForRate says that a delivery has been told when to come back by its webhook's rate limit.
func waitedForRate(c claim) bool { return c.Waited == models.ReasonRateLimited && !c.Parked }

// heldWhy is why a claim was given back unstarted.
type heldWhy string

const (
	heldByCircuit heldWhy = "circuit"
	heldByRate    heldWhy = "rate"
	heldByShare   heldWhy = "share"
	heldByFault   heldWhy = "fault"
	heldBack      heldWhy = "late"
)

// held gives a claim back unstarted. A worker that stops does not make its deliveries wait.
func (w *Worker) held(c claim, why heldWhy, wait time.Duration) *models.Release {
	w.metrics.held.WithLabelValues(string(why)).Inc()
	release := &models.Release{DeliveryID: c.DeliveryID, Token: c.Token, After: wait}
	if w.attempts.Err() != nil {
		release.After = 0
	}
	reason := c.Waited
	if c.Parked {
		reason = "" // that is over
	}
	switch why {
	case heldByCircuit:
		release.After = coarse(release.After)
		reason = models.ReasonCircuitOpen
		release.Detail = detailCircuit
	case heldByRate:
		reason = models.ReasonRateLimited
		release.Detail = detailRate
	case heldByShare:
		release.After = coarse(release.After)
		if waitedForRate(c) {
			release.Detail = detailRate // it keeps its turn, and is not parked
			break
		}
		reason = models.ReasonRateLimited
		release.Detail = models.DetailShare
	case heldByFault, heldBack:
	}
	// Its turn in the limit's line is kept through other waits.
	if reason == models.ReasonCircuitOpen || reason == models.ReasonRateLimited {
		release.Reason = &reason
	}
	return release
}

// unreadable gives back a claim whose webhook could not be opened. Nothing is ever sent unsigned or
// to a guess: it waits until the fault is mended, and no attempt is counted.
func (w *Worker) unreadable(c claim, err error) *models.Release {
	delay := lateDelay
	if !transient(err) {
		delay = faultDelay
		if w.receivers.complain(c.WebhookID) {
			w.opt.Logger.Error("webhook cannot be opened, its deliveries wait", "webhook", c.WebhookID, "error", err)
		}
	}
	release := w.held(c, heldByFault, spread(delay))
	if delay == faultDelay {
		release.Detail = "Waits because of a fault of this server: what is stored of the webhook cannot be opened."
	}
	return release
}

// panicked records a delivery's attempt that a fault of ours broke off. The schedule goes on, so
// that one that does it every time ends, and its history says why.
func (w *Worker) panicked(ctx context.Context, c claim, value any) {
	// The value itself may hold data.
	w.opt.Logger.ErrorContext(ctx, "delivery panicked", "delivery", c.DeliveryID, "webhook", c.WebhookID,
		"panic_type", fmt.Sprintf("%T", value), "stack", string(debug.Stack()))
	w.metrics.panics.Inc()
	now := w.opt.Store.Clock()
	outcome, text := models.OutcomeAbandoned, "An internal fault broke the attempt off."
	schedule := w.opt.Schedule
	if r := w.receivers.known(c.WebhookID); r != nil {
		schedule = r.schedule
	}
	disposition := models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "An internal fault broke off the last attempt.")
	if delay, more := retryDelay(schedule, c.ScheduleStep); more && c.Trigger != models.TriggerTest {
		disposition = models.RetryAfter(delay)
	}
	w.write(ctx, models.AttemptRecord{
		Attempt: models.Attempt{
			DeliveryID: c.DeliveryID, Number: c.Number, Tenant: c.Tenant, Token: c.Token, Trigger: c.Trigger,
			StartedAt: now, EndedAt: &now, Outcome: &outcome, Error: &text, RequestHeaders: models.Headers{},
		},
		WebhookID: c.WebhookID, EventType: c.EventType, Disposition: disposition,
	})
}

// recordOf is what the database is told of an attempt.
func (w *Worker) recordOf(c *models.Claim, r *receiver, request egress.Request, result egress.Result) models.AttemptRecord {
	outcome := models.Outcome(result.Outcome)
	disposition, effect := decide(c, r, result, w.opt.RetryAfterMax)
	ended := models.Instant(result.EndedAt)
	a := models.Attempt{
		DeliveryID: c.DeliveryID, Number: c.Number, Tenant: c.Tenant, Token: c.Token, Trigger: c.Trigger,
		StartedAt: models.Instant(result.StartedAt), EndedAt: &ended, Outcome: &outcome,
		RequestURL: r.target.String(), RequestHeaders: shownHeaders(request.ShownHeaders()),
		ResponseTruncated: result.Truncated,
		TotalMicros:       micros(result.Timing.Total), DNSMicros: micros(result.Timing.DNS), ConnectMicros: micros(result.Timing.Connect),
		TLSMicros: micros(result.Timing.TLS), FirstByteMicros: micros(result.Timing.FirstByte),
	}
	if result.Error != "" {
		a.Error = &result.Error
	}
	if result.RemoteAddr != "" {
		a.RemoteAddress = &result.RemoteAddr
	}
	if result.Status != 0 {
		body := string(result.ResponseBody)
		a.ResponseStatus, a.ResponseBody = &result.Status, &body
		a.ResponseHeaders = shownHeaders(result.ResponseHeaders)
	}
	return models.AttemptRecord{Attempt: a, WebhookID: c.WebhookID, EventType: c.EventType, Disposition: disposition, Effect: effect}
}

func micros(d time.Duration) *int64 {
	if d <= 0 {
		return nil
	}
	n := d.Microseconds()
	return &n
}

func shownHeaders(list []egress.ShownHeader) models.Headers {
	out := make(models.Headers, len(list))
	for n, h := range list {
		out[n] = models.Header{Name: h.Name, Value: h.Value, Masked: h.Masked}
	}
	return out
}
