package models

import (
	"cmp"
	"slices"
	"time"
)

// ledger is what a recording transaction has locked and what it decides: pure state, the same for
// both databases.
type ledger struct {
	now        time.Time
	deliveries map[string]*entry
	counts     minutes
	health     map[string]*healthMove
}

// entry is a delivery and those attempts of it that may be in the way of new ones.
type entry struct {
	Delivery
	attempts []madeAttempt
	changed  bool
	free     bool // its claim has ended
	erased   bool // its event was erased: nothing that a receiver answers is kept
}

type madeAttempt struct {
	number  int
	token   string
	outcome Outcome
	told    bool // its worker told what came of it; of one that was given up for dead it may have done so late
}

// written is an attempt's row to write: a new one, or one that takes over an abandoned one.
type written struct {
	*Attempt
	takeover bool
}

// healthMove is what a batch does to a webhook's health: after the last success in it, if any, so
// many failures, the first of them now.
type healthMove struct {
	succeeded bool
	failures  int
}

func newLedger(now time.Time, deliveries []*entry) *ledger {
	l := &ledger{now: now, deliveries: make(map[string]*entry, len(deliveries)), counts: minutes{}, health: map[string]*healthMove{}}
	for _, d := range deliveries {
		l.deliveries[d.ID] = d
	}
	return l
}

// record decides about one record. The answer's row is nil where nothing is to be written.
func (l *ledger) record(r *AttemptRecord) (Recorded, *written) {
	d := l.deliveries[r.Attempt.DeliveryID]
	if d == nil {
		return Recorded{DeliveryID: r.Attempt.DeliveryID}, nil
	}
	a := r.Attempt
	a.Tenant = d.Tenant
	if d.erased {
		a.ResponseHeaders, a.ResponseBody = nil, nil
	}
	own := d.made(a.Token)
	if own != nil && (own.outcome != OutcomeAbandoned || own.told || *a.Outcome == OutcomeAbandoned) {
		return d.recorded(true), nil // a repetition
	}
	fits := d.AttemptCount == a.Number-1 && (d.ClaimToken == nil || *d.ClaimToken == a.Token)
	if own != nil && a.Trigger != "" && a.Trigger != d.AttemptTrigger {
		fits = false // it was given up, and something else was asked for since
	}
	switch {
	case own != nil:
		a.Number = own.number
	case d.ClaimToken != nil && !fits:
		// Its number belongs to the claim that came after it.
		a.Number = d.next(max(a.Number, d.AttemptCount+2))
	default:
		a.Number = d.next(a.Number)
	}
	if fits {
		a.Trigger = cmp.Or(a.Trigger, d.AttemptTrigger)
		l.attempted(d, r)
	} else {
		a.Trigger = cmp.Or(a.Trigger, TriggerAutomatic)
		l.late(d, r, &a)
	}
	if own != nil {
		own.outcome, own.told = *a.Outcome, true
	} else {
		d.attempts = append(d.attempts, madeAttempt{number: a.Number, token: a.Token, outcome: *a.Outcome, told: true})
		l.counts.add(&d.Delivery, MeasureAttempts)
	}
	if a.TotalMicros != nil && *r.Attempt.Outcome != OutcomeAbandoned {
		l.counts.add(&d.Delivery, LatencyBucket(time.Duration(*a.TotalMicros)*time.Microsecond))
	}
	l.move(d, r)
	return d.recorded(fits), &written{Attempt: &a, takeover: own != nil}
}

// made is the attempt that ran under token; nil where there is none yet.
func (d *entry) made(token string) *madeAttempt {
	n := slices.IndexFunc(d.attempts, func(m madeAttempt) bool { return m.token == token })
	if n < 0 {
		return nil
	}
	return &d.attempts[n]
}

func (d *entry) recorded(applied bool) Recorded {
	return Recorded{
		DeliveryID: d.ID, Applied: applied, Status: d.Status, NextAttemptAt: d.NextAttemptAt, AttemptCount: d.AttemptCount,
	}
}

// next is number where it is free, else the next free one.
func (d *entry) next(number int) int {
	for slices.ContainsFunc(d.attempts, func(m madeAttempt) bool { return m.number == number }) {
		number++
	}
	return number
}

// attempted moves a delivery whose claim was its own, or was given up for dead and is nobody's since. An
// attempt that was handed back is made again, so it counts for nothing.
func (l *ledger) attempted(d *entry, r *AttemptRecord) {
	d.changed, d.free = true, true
	d.ClaimToken = nil
	manual := d.AttemptTrigger == TriggerManual
	d.LastOutcome, d.LastStatus = r.Attempt.Outcome, r.Attempt.ResponseStatus
	kind := r.Disposition.kind
	if kind != disposeHandedBack {
		d.AttemptCount++
		// What was asked for has been done; after a hand-back it is still to be.
		d.AttemptTrigger = TriggerAutomatic
	}
	if kind == disposeSucceeded {
		l.succeed(d)
		return
	}
	if kind == disposeRetry && !manual {
		d.ScheduleStep++
	}
	switch d.Status {
	case DeliveryPending, DeliveryRetrying, DeliveryHeld:
	case DeliverySucceeded, DeliveryFailed, DeliveryCancelled, DeliverySkipped:
		return // what ended it meanwhile stands
	}
	switch {
	case kind == disposeHandedBack:
		l.due(d, 0)
	case d.SucceededAt != nil:
		// A redelivery failed; the receiver has it all the same.
		l.end(d, DeliverySucceeded, "", "")
	case kind == disposeEnded:
		// Held ones too: there is no attempt left that could be held.
		l.end(d, r.Disposition.status, r.Disposition.reason, r.Disposition.detail)
		if r.Disposition.status == DeliveryFailed {
			l.counts.add(&d.Delivery, MeasureFailed)
		}
	default:
		l.due(d, r.Disposition.after)
	}
}

// due makes a delivery due after a while, unless it is held.
func (l *ledger) due(d *entry, after time.Duration) {
	if d.Status == DeliveryHeld {
		return
	}
	at := Instant(l.now.Add(after))
	d.Status, d.StatusReason, d.StatusDetail, d.NextAttemptAt = DeliveryRetrying, nil, nil, &at
}

func (l *ledger) end(d *entry, status DeliveryStatus, reason DeliveryStatusReason, detail string) {
	now := l.now
	d.Status, d.StatusReason, d.StatusDetail, d.NextAttemptAt, d.CompletedAt = status, nil, nil, nil, &now
	if reason != "" {
		d.StatusReason = &reason
	}
	if detail = clean(detail); detail != "" {
		d.StatusDetail = &detail
	}
}

func (l *ledger) succeed(d *entry) {
	if d.SucceededAt == nil {
		now := l.now
		d.SucceededAt = &now
		l.counts.add(&d.Delivery, MeasureSucceeded)
	}
	l.end(d, DeliverySucceeded, "", "")
}

// late is an attempt whose delivery moved on without it: another one is made in its stead, so it stays
// ABANDONED, with what came of it. A success still counts; where it was known before, what is asked of
// the delivery now goes on. A claim of another stays: it is fenced by the same number.
func (l *ledger) late(d *entry, r *AttemptRecord, a *Attempt) {
	if r.Disposition.kind != disposeSucceeded {
		outcome := OutcomeAbandoned
		a.Outcome = &outcome
		return
	}
	if !slices.ContainsFunc(d.attempts, func(m madeAttempt) bool { return m.number > a.Number }) {
		d.changed = true
		d.LastOutcome, d.LastStatus = a.Outcome, a.ResponseStatus
	}
	if d.SucceededAt == nil {
		d.changed = true
		l.succeed(d)
	}
}

// move is what an attempt does to its webhook's health. One that we cut off ourselves tells
// nothing about the receiver.
func (l *ledger) move(d *entry, r *AttemptRecord) {
	if *r.Attempt.Outcome == OutcomeAbandoned {
		return
	}
	h := l.health[d.WebhookID]
	if h == nil {
		h = &healthMove{}
		l.health[d.WebhookID] = h
	}
	if r.Disposition.kind == disposeSucceeded {
		h.succeeded, h.failures = true, 0
	} else {
		h.failures++
	}
}

// sortedHealth is the webhooks in the order in which every transaction locks their rows.
func (l *ledger) sortedHealth() []string {
	ids := make([]string, 0, len(l.health))
	for id := range l.health {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// sortedChanges is the deliveries to write, in the order in which they were locked.
func (l *ledger) sortedChanges() []*entry {
	var changed []*entry
	for _, d := range l.deliveries {
		if d.changed {
			changed = append(changed, d)
		}
	}
	slices.SortFunc(changed, func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) })
	return changed
}

// recordAll decides about records in their order.
func (l *ledger) recordAll(records []AttemptRecord) ([]Recorded, []written) {
	recorded := make([]Recorded, len(records))
	rows := make([]written, 0, len(records))
	for i := range records {
		var row *written
		if recorded[i], row = l.record(&records[i]); row != nil {
			rows = append(rows, *row)
		}
	}
	return recorded, rows
}

// toLock is the deliveries of records, each once and sorted, with the lowest number of theirs.
func toLock(records []AttemptRecord) (ids []string, numbers []int) {
	lowest := make(map[string]int, len(records))
	for i := range records {
		a := &records[i].Attempt
		if n, ok := lowest[a.DeliveryID]; !ok || a.Number < n {
			lowest[a.DeliveryID] = a.Number
		}
	}
	for id := range lowest {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		numbers = append(numbers, lowest[id])
	}
	return ids, numbers
}
