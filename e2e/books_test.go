package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// books are what the three sides of a run wrote down, each without knowing of the others: what
// emitters were told, what receivers got, and what the history says. violations compares them. The
// fields are filled by world, or by a test of the checker itself.
type books struct {
	webhooks   []subscribed
	calls      []call
	receipts   []receipt
	events     []eventRecord
	deliveries []deliveryRecord
	// patience bounds every call; zero: not checked, as where the server itself is frozen.
	patience time.Duration
	// crashes are when Postgres was killed. A claim is committed without waiting for the disk, so
	// one of the last moment is forgotten; where its worker dies too before it can record, no
	// attempt is left of the request.
	crashes []time.Time
	// stepped says that the clock by which things are due was set meanwhile: what its times say of an
	// order, and how long anything took by it, is not checked.
	stepped bool
}

// forgettable reports whether the claim behind the request may have died with Postgres.
func (b *books) forgettable(r receipt) bool {
	return slices.ContainsFunc(b.crashes, func(at time.Time) bool {
		return r.at.After(at.Add(-time.Second)) && r.at.Before(at.Add(500*time.Millisecond))
	})
}

// subscribed is a webhook that wants every event of a run.
type subscribed struct {
	id, name string
	schedule []time.Duration
	rate     int  // starts in any second; 0: no limit
	held     bool // paused all along: everything is HELD and nothing is sent
	// silences are when nothing may start: from the answer of what stopped it to the call that
	// began it again.
	silences []silence
}

type silence struct{ from, until time.Time }

// call is one emit and what its caller was told.
type call struct {
	key     string
	id      string // of the event; empty where the answer was an error or none
	code    string // of the error; "" for a connection's own, which err names
	err     string
	matched int
	// duplicate says that the event was there before this call.
	duplicate      bool
	sent, answered time.Time
}

// receipt is one request as a receiver logged it.
type receipt struct {
	webhook, id, timestamp, hash string
	at, answered                 time.Time
	// arrived is when it reached the receiver's machine. On a busy one it may be long before the receiver took it up and
	// logged it, which no sender can know. Zero: at.
	arrived   time.Time
	status    int // that was answered; 0: none was
	broken    bool
	signature error
}

func (r receipt) came() time.Time {
	if r.arrived.IsZero() {
		return r.at
	}
	return r.arrived
}

type eventRecord struct{ id, key string }

type deliveryRecord struct {
	id, event, webhook, status, reason string
	attemptCount                       int
	createdAt, completedAt             time.Time
	attempts                           []attemptRecord
}

type attemptRecord struct {
	number                          int
	outcome, timestamp, hash, error string
	status                          int // 0: no response
	startedAt, endedAt              time.Time
}

func (a attemptRecord) succeeded() bool { return a.status/100 == 2 && a.outcome == "SUCCESS" }

// sent reports whether the history knows that the attempt got as far as a request. An ABANDONED one whose
// worker told after all what was answered did.
func (a attemptRecord) sent() bool {
	if a.abandoned() {
		return a.status != 0
	}
	if a.outcome == "TIMEOUT" && strings.Contains(a.error, "while connecting to the receiver") {
		return false
	}
	return !slices.Contains([]string{"DNS_ERROR", "CONNECT_ERROR", "TLS_ERROR", "BLOCKED_TARGET"}, a.outcome)
}

// request is the place of the request among left that the attempt made, -1 where there is none. Several
// look alike within a second: that of an abandoned attempt is told from it by when it came.
func (a attemptRecord) request(left []receipt) int {
	found := -1
	for n, r := range left {
		if r.timestamp != a.timestamp || r.hash != a.hash || a.status != 0 && a.status != r.status {
			continue
		}
		// Of another clock than the receiver's, it tells nothing.
		apart := r.at.Sub(a.startedAt).Abs()
		if found < 0 || apart < time.Second && apart < left[found].at.Sub(a.startedAt).Abs() {
			found = n
		}
	}
	return found
}

// abandoned reports whether the attempt was made again because nothing was heard of it in time.
func (a attemptRecord) abandoned() bool { return a.outcome == "ABANDONED" }

// pair names a delivery by what both sides know of it: the webhook and the event, whose id is the
// webhook-id of every request.
type pair struct{ webhook, event string }

// violation is an invariant that does not hold, and where.
type violation struct{ invariant, what string }

func (v violation) String() string { return v.invariant + ": " + v.what }

// violations are all that the books disagree about, in the order of the invariants.
func (b *books) violations() []violation {
	c := &checker{books: b, receipts: map[pair][]receipt{}, deliveries: map[pair][]deliveryRecord{}, webhooks: map[string]subscribed{}}
	for _, w := range b.webhooks {
		c.webhooks[w.id] = w
	}
	for _, r := range b.receipts {
		p := pair{r.webhook, r.id}
		c.receipts[p] = append(c.receipts[p], r)
	}
	for p := range c.receipts {
		// A busy receiver may take up last what came first.
		slices.SortStableFunc(c.receipts[p], func(a, b receipt) int { return a.came().Compare(b.came()) })
	}
	for _, d := range b.deliveries {
		p := pair{d.webhook, d.event}
		c.deliveries[p] = append(c.deliveries[p], d)
	}
	c.calling()
	c.completeness()
	for _, d := range b.deliveries {
		c.delivery(d)
	}
	for p, got := range c.receipts {
		c.requests(p, got)
	}
	c.silences()
	c.rates()
	slices.SortFunc(c.found, func(a, b violation) int {
		return cmp.Or(cmp.Compare(len(a.invariant), len(b.invariant)), cmp.Compare(a.invariant, b.invariant), cmp.Compare(a.what, b.what))
	})
	return c.found
}

type checker struct {
	*books
	receipts   map[pair][]receipt
	deliveries map[pair][]deliveryRecord
	webhooks   map[string]subscribed
	found      []violation
}

func (c *checker) report(invariant, format string, args ...any) {
	c.found = append(c.found, violation{invariant, fmt.Sprintf(format, args...)})
}

// calling checks what emitters were told: I10 and I14.
func (c *checker) calling() {
	byKey := map[string]string{}
	for _, call := range c.calls {
		if call.code == "INTERNAL" {
			c.report("I14", "the emit under %s was answered INTERNAL: %s", call.key, call.err)
		}
		if took := call.answered.Sub(call.sent); c.patience > 0 && took > c.patience {
			c.report("I14", "the emit under %s took %s (%s %s)", call.key, took, call.code, call.err)
		}
		if call.id == "" {
			continue
		}
		if first, ok := byKey[call.key]; ok && first != call.id {
			c.report("I10", "the key %s was answered with %s and with %s", call.key, first, call.id)
		}
		byKey[call.key] = call.id
		if call.matched != len(c.webhooks) {
			c.report("I1", "%s was answered with %d matching webhooks of %d", call.id, call.matched, len(c.webhooks))
		}
	}
}

// completeness checks that what was answered is there, and that what is there is whole: I1, I5, I10.
func (c *checker) completeness() {
	byKey, known := map[string]string{}, map[string]bool{}
	for _, e := range c.events {
		known[e.id] = true
		if first, ok := byKey[e.key]; ok && e.key != "" {
			c.report("I10", "the key %s made two events, %s and %s", e.key, first, e.id)
		}
		byKey[e.key] = e.id
		for _, w := range c.webhooks {
			if n := len(c.deliveries[pair{w.id, e.id}]); n != 1 {
				c.report("I5", "%s has %d deliveries to %s, an event is wholly there or not at all", e.id, n, w.name)
			}
		}
	}
	for _, call := range c.calls {
		if call.id != "" && !known[call.id] {
			c.report("I1", "%s was accepted under %s and is not in the history", call.id, call.key)
			known[call.id] = true // once is enough
		}
	}
	for p := range c.receipts {
		if !known[p.event] {
			c.report("I5", "%s came to %s and is not in the history", p.event, c.webhooks[p.webhook].name)
		}
	}
}

// delivery checks one delivery against what its receiver logged.
func (c *checker) delivery(d deliveryRecord) {
	w := c.webhooks[d.webhook]
	got := c.receipts[pair{d.webhook, d.event}]
	if w.held {
		if d.status != "HELD" || len(d.attempts) > 0 {
			c.report("I3", "%s to the paused %s is %s with %d attempts", d.id, w.name, d.status, len(d.attempts))
		}
		return
	}
	if !slices.Contains([]string{"SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED"}, d.status) {
		c.report("I1", "%s of %s to %s is still %s (%s)", d.id, d.event, w.name, d.status, d.reason)
	}
	recorded := slices.ContainsFunc(d.attempts, attemptRecord.succeeded)
	logged := slices.ContainsFunc(got, func(r receipt) bool { return r.status/100 == 2 })
	if succeeded := d.status == "SUCCEEDED"; succeeded != recorded || succeeded != logged {
		c.report("I2", "%s of %s to %s is %s; a 2xx was recorded: %t, logged by the receiver: %t", d.id, d.event, w.name, d.status, recorded, logged)
	}
	made := 0
	for _, a := range d.attempts {
		if !a.abandoned() {
			made++
		}
	}
	if allowed := len(w.schedule) + 1; made > allowed {
		c.report("I8", "%s of %s to %s has %d attempts, its schedule allows %d", d.id, d.event, w.name, made, allowed)
	}
	if d.attemptCount > made {
		c.report("I8", "%s of %s to %s counts %d attempts and has %d", d.id, d.event, w.name, d.attemptCount, made)
	}
	c.match(d, w, got)
}

// match pairs the attempts of a delivery with the requests that came: I4, and with the pairs I3 and I7.
func (c *checker) match(d deliveryRecord, w subscribed, got []receipt) {
	left := slices.Clone(got)
	var before receipt // what the attempt before was paired with
	waits := 0
	next := func(r receipt, a attemptRecord) {
		// One that is abandoned is made again at once, and uses no step. After a success nothing is planned:
		// what came after it all the same was begun before it was heard of, or else I3 finds it.
		if before = r; a.abandoned() || a.succeeded() {
			before = receipt{}
			return
		}
		waits++
	}
	for _, a := range d.attempts {
		if !a.sent() {
			next(receipt{}, a)
			continue
		}
		n := a.request(left)
		if n < 0 {
			c.report("I4", "attempt %d of %s of %s to %s is recorded (%s, status %d, %s, %s) and no such request came; %d others did",
				a.number, d.id, d.event, w.name, a.outcome, a.status, a.timestamp, a.error, len(left))
			next(receipt{}, a)
			continue
		}
		r := left[n]
		left = slices.Delete(left, n, n+1)
		if !c.stepped && !d.completedAt.IsZero() && a.startedAt.After(d.completedAt) {
			c.report("I3", "attempt %d of %s of %s to %s started %s after its end", a.number, d.id, d.event, w.name, a.startedAt.Sub(d.completedAt))
		}
		// One that was told of late has its place where that was recorded.
		if !c.stepped && !a.abandoned() && !before.answered.IsZero() && len(w.schedule) > 0 {
			least := w.schedule[min(waits, len(w.schedule))-1] * 9 / 10
			if waited := r.at.Sub(before.answered); waited < least {
				c.report("I7", "attempt %d of %s of %s to %s came %s after the one before, not %s", a.number, d.id, d.event, w.name, waited, least)
			}
		}
		next(r, a)
	}
	abandoned := 0
	for _, a := range d.attempts {
		if a.abandoned() && !a.sent() {
			abandoned++
		}
	}
	for _, r := range left {
		if c.forgettable(r) {
			continue
		}
		if abandoned--; abandoned < 0 {
			c.report("I4", "a request of %s to %s at %s (status %d, %s) is in no attempt of %s", d.event, w.name, r.at.Format(time.RFC3339Nano), r.status, r.timestamp, d.id)
		}
		if !c.stepped && !d.completedAt.IsZero() && r.at.After(d.completedAt) {
			c.report("I3", "a request of %s to %s that is in no attempt came %s after the end of %s", d.event, w.name, r.at.Sub(d.completedAt), d.id)
		}
	}
}

// requests checks what the receiver can see by itself: I6.
func (c *checker) requests(p pair, got []receipt) {
	name := c.webhooks[p.webhook].name
	whole := slices.DeleteFunc(slices.Clone(got), func(r receipt) bool { return r.broken })
	for n, r := range whole {
		if r.signature != nil {
			c.report("I6", "the signature of a request of %s to %s does not verify: %s", p.event, name, r.signature)
		}
		if n == 0 {
			continue
		}
		if r.hash != whole[0].hash {
			c.report("I6", "request %d of %s to %s has another body than the first", n+1, p.event, name)
		}
		// Both are seconds since 1970 and equally long; a retry may come within the same second.
		if !c.stepped && strings.Compare(r.timestamp, whole[n-1].timestamp) < 0 {
			before := whole[n-1]
			c.report("I6", "request %d of %s to %s is of %s (came %s, taken up %s), the one before of %s (came %s, taken up %s)", n+1, p.event, name,
				r.timestamp, r.came().Format(time.RFC3339Nano), r.at.Format(time.RFC3339Nano),
				before.timestamp, before.came().Format(time.RFC3339Nano), before.at.Format(time.RFC3339Nano))
		}
	}
}

// silences checks that nothing came while nothing may: the rest of I3.
func (c *checker) silences() {
	for _, r := range c.books.receipts {
		w := c.webhooks[r.webhook]
		if w.held {
			c.report("I3", "%s came to %s, which was paused all along", r.id, w.name)
		}
		for _, s := range w.silences {
			if r.came().After(s.from) && (s.until.IsZero() || r.came().Before(s.until)) {
				c.report("I3", "%s came to %s %s after what stopped it was answered", r.id, w.name, r.came().Sub(s.from))
			}
		}
	}
}

// rates slides a second over each limited receiver's log: I9.
func (c *checker) rates() {
	for _, w := range c.webhooks {
		if w.rate == 0 {
			continue
		}
		var at []time.Time
		for _, r := range c.books.receipts {
			if r.webhook == w.id {
				at = append(at, r.came())
			}
		}
		slices.SortFunc(at, time.Time.Compare)
		for n := w.rate; n < len(at); n++ {
			if within := at[n].Sub(at[n-w.rate]); within < time.Second {
				c.report("I9", "%d requests came to %s within %s up to %s, its limit is %d in a second",
					w.rate+1, w.name, within, at[n].Format(time.RFC3339Nano), w.rate)
			}
		}
	}
}

// summary counts what is in the books.
func (b *books) summary() string {
	accepted, failed, slowest := map[string]bool{}, map[string]int{}, time.Duration(0)
	for _, c := range b.calls {
		if c.id != "" {
			accepted[c.id] = true
		} else {
			failed[cmp.Or(c.code, "no answer")]++
		}
		slowest = max(slowest, c.answered.Sub(c.sent))
	}
	statuses, attempts, abandoned, twice := map[string]int{}, 0, 0, 0
	for _, d := range b.deliveries {
		statuses[d.status]++
		attempts += len(d.attempts)
		for _, a := range d.attempts {
			if a.abandoned() {
				abandoned++
			}
		}
	}
	succeeded := map[pair]int{}
	for _, r := range b.receipts {
		if r.status/100 == 2 {
			if succeeded[pair{r.webhook, r.id}]++; succeeded[pair{r.webhook, r.id}] > 1 {
				twice++
			}
		}
	}
	return fmt.Sprintf("%d calls (slowest %s), %d accepted, failed %v; %d events, %d deliveries %v, %d attempts (%d abandoned); %d requests, %d of them again after a 2xx",
		len(b.calls), slowest.Round(time.Millisecond), len(accepted), failed, len(b.events), len(b.deliveries), statuses, attempts, abandoned, len(b.receipts), twice)
}
