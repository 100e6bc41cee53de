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
	own := slices.IndexFunc(d.attempts, func(m madeAttempt) bool { return m.token == a.Token })
	fits := d.AttemptCount == a.Number-1 && (d.ClaimToken == nil || *d.ClaimToken == a.Token)
	var row *written
	applied := fits
	switch {
	case own >= 0 && d.attempts[own].outcome != OutcomeAbandoned, own >= 0 && *a.Outcome == OutcomeAbandoned:
		return d.recorded(true), nil // a repetition
	case own >= 0:
		applied = false
		a.Number = d.attempts[own].number
		d.attempts[own].outcome = *a.Outcome
		row = &written{Attempt: &a, takeover: true}
		l.late(d, r, a.Number)
	case fits:
		a.Number = d.next(a.Number)
		a.Trigger = cmp.Or(a.Trigger, d.AttemptTrigger)
		row = &written{Attempt: &a}
		l.attempted(d, r)
	default:
		// Its number belongs to the claim that came after it.
		if d.ClaimToken != nil {
			a.Number = max(a.Number, d.AttemptCount+2)
		}
		a.Number = d.next(a.Number)
		a.Trigger = cmp.Or(a.Trigger, TriggerAutomatic)
		row = &written{Attempt: &a}
		l.late(d, r, a.Number)
	}
	if !row.takeover {
		d.attempts = append(d.attempts, madeAttempt{number: a.Number, token: a.Token, outcome: *a.Outcome})
		l.counts.add(&d.Delivery, MeasureAttempts)
	}
	if a.TotalMicros != nil && *a.Outcome != OutcomeAbandoned {
		l.counts.add(&d.Delivery, LatencyBucket(time.Duration(*a.TotalMicros)*time.Microsecond))
	}
	l.move(d, r)
	return d.recorded(applied), row
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

// attempted moves a delivery whose claim was its own.
func (l *ledger) attempted(d *entry, r *AttemptRecord) {
	d.changed, d.free = true, true
	d.AttemptCount++
	d.ClaimToken = nil
	manual := d.AttemptTrigger == TriggerManual
	d.LastOutcome, d.LastStatus = r.Attempt.Outcome, r.Attempt.ResponseStatus
	kind := r.Disposition.kind
	if kind != disposeHandedBack {
		// What was asked for has been done; after a hand-back it is still to be.
		d.AttemptTrigger = TriggerAutomatic
	}
	if kind == disposeSucceeded {
		l.succeed(d)
		return
	}
	if (kind == disposeRetry || kind == disposeHandedBack) && !manual {
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

// late is an attempt whose delivery moved on without it. A success still counts; where it was
// known before, what is asked of the delivery now goes on. A claim of another stays: it is fenced
// by the same number.
func (l *ledger) late(d *entry, r *AttemptRecord, number int) {
	if number >= d.AttemptCount && (r.Disposition.kind == disposeSucceeded || number == d.AttemptCount) {
		d.changed = true
		d.LastOutcome, d.LastStatus = r.Attempt.Outcome, r.Attempt.ResponseStatus
	}
	if r.Disposition.kind == disposeSucceeded && d.SucceededAt == nil {
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
