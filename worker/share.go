package worker

import (
	"container/list"
	"sync"
	"time"
)

// share keeps any one webhook from holding more than its part of the process's concurrent
// attempts, so that a receiver that hangs cannot make the others wait.
//
// How long the webhook's attempts take decides what becomes of those that find no slot. Where one
// comes free soon they stand in line, which costs nothing but a goroutine: a fast receiver that
// gets a burst is kept busy. Where it does not, they are parked in the database, each behind the one
// before, about as fast as the receiver takes them: a backlog is claimed once or twice on its way, not
// over and over. When slots stay free though some are parked, because the receiver has become faster,
// those are fetched. What waited for an open circuit is parked, too, and fetched in the same way when it closes.
type share struct {
	limit int // attempts at once per webhook
	now   func() time.Time

	mu   sync.Mutex
	held map[string]*holding
}

// holding is what a webhook holds and who waits for it.
type holding struct {
	running  *list.List    // of *slot, the oldest first
	line     *list.List    // of *slot that wait for their turn
	average  time.Duration // of the attempts that ended, weighted towards the newest
	returned time.Time     // when the last one that was sent back comes again
	parked   bool          // there may be some in the database
	fetching bool          // somebody is about to look there
	fetched  time.Time     // when that was last done
	stood    int           // how many have ever stood in line
	wave     wave          // of those that lose patience
}

// wave is the times for which those are sent back that stand in line when the first of them loses patience. The
// others will, too, in any order: each has a goroutine of its own. They come again in that of the line.
type wave struct {
	from, to int           // their numbers in the line
	at       time.Time     // when the first of them comes
	step     time.Duration // from one to the next
}

// slot is one attempt's place: held when ready is closed, else in line, else sent back for after.
type slot struct {
	webhookID string
	ready     chan struct{}
	since     time.Time
	after     time.Duration
	at        *list.Element // in running or line; nil: sent back
	held      bool
	number    int // in the line
}

const (
	// patience is how long a delivery may stand in line: its claim must still start in time.
	patience = 300 * time.Millisecond
	// maxLine bounds the line of one webhook.
	maxLine = 1024
	// shortestWait is the least that a delivery is sent back for.
	shortestWait = 100 * time.Millisecond
	// slowestReturn is the longest distance between two that were sent back. A worker that starts knows
	// nothing of what is parked before one of them has come.
	slowestReturn = time.Second
	// Parked ones are fetched when at least 1/freeSlots of the slots are free, again after fetchAgain as a
	// rule, and at most as many more than that as have their turn within fetchAhead.
	freeSlots  = 8
	fetchAgain = 20 * time.Millisecond
	fetchAhead = 100 * time.Millisecond
	maxFetch   = 256
	// idleHolding is how long a quiet webhook is remembered after the last one that was sent back or fetched.
	idleHolding = time.Minute
)

func newShare(limit int, now func() time.Time) *share {
	return &share{limit: max(limit, 1), now: now, held: map[string]*holding{}}
}

// take gets a slot for the webhook, a place in line, or the time after which to come again. As long as there
// may be parked ones and few slots are free those are first, and what is neither parked nor a person's is parked
// behind them.
func (s *share) take(webhookID string, parked, person bool) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.of(webhookID)
	h.parked = h.parked || parked
	now := s.now()
	t := &slot{webhookID: webhookID, ready: make(chan struct{})}
	behind := !parked && !person && s.parkedFirst(h)
	if h.running.Len() < s.limit && !behind {
		h.grant(t, now)
		return t
	}
	turn := s.turn(h, now)
	if !behind && s.hasPlace(h, now, turn) {
		t.number = h.stood
		h.stood++
		t.at = h.line.PushBack(t)
		return t
	}
	t.after = s.sendBack(h, now, turn, h.line.Len())
	return t
}

// full tells of a delivery that is not claimed yet when to come again, where take would send it back; else 0.
func (s *share) full(webhookID string, person bool) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[webhookID]
	if h == nil {
		return 0
	}
	behind := !person && s.parkedFirst(h)
	if h.running.Len() < s.limit && !behind {
		return 0
	}
	now := s.now()
	turn := s.turn(h, now)
	if !behind && s.hasPlace(h, now, turn) {
		return 0
	}
	return s.sendBack(h, now, turn, h.line.Len())
}

// parkedFirst says that parked ones come before others: there may be some, and few slots are free. Where more are,
// they have been fetched, or are fetched before those are taken.
func (s *share) parkedFirst(h *holding) bool {
	return h.parked && s.limit-h.running.Len() < s.manyFree()
}

// manyFree is how many slots must be free for parked ones to be fetched.
func (s *share) manyFree() int { return (s.limit + freeSlots - 1) / freeSlots }

// turn is how long it takes from one slot that comes free to the next.
func (s *share) turn(h *holding, now time.Time) time.Duration {
	return h.expected(now) / time.Duration(s.limit)
}

// hasPlace says whether one more may stand in line. Each place is one turn further from the slots.
func (s *share) hasPlace(h *holding, now time.Time, turn time.Duration) bool {
	return h.line.Len() < maxLine && turn*time.Duration(h.line.Len()+1) <= patience && s.next(h, now) <= patience
}

// next is in how long the next slot will be free, should its attempt take as long as the others did. Where
// many began together, as with a receiver that hangs, turns come all at once, and not for long between.
func (s *share) next(h *holding, now time.Time) time.Duration {
	if h.running.Len() < s.limit {
		return 0
	}
	oldest := h.running.Front()
	if oldest == nil {
		return 0
	}
	t, _ := oldest.Value.(*slot)
	return max(h.average-now.Sub(t.since), 0)
}

// sendBack says when one that finds no slot comes again: behind all that were sent back before, and
// behind so many in line, where nobody stands for longer than its patience.
func (s *share) sendBack(h *holding, now time.Time, turn time.Duration, ahead int) time.Duration {
	if earliest := now.Add(max(shortestWait+min(turn*time.Duration(ahead), patience), s.next(h, now))); h.returned.Before(earliest) {
		h.returned = earliest
	}
	h.returned = h.returned.Add(min(turn, slowestReturn))
	h.parked = true
	return h.returned.Sub(now)
}

// isHeld says that it is its turn, without waiting.
func (t *slot) isHeld() bool {
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}

func (h *holding) grant(t *slot, now time.Time) {
	t.since, t.held = now, true
	t.at = h.running.PushBack(t)
	close(t.ready)
}

// expected is how long an attempt takes: what the last ones took, or, where that is more, what the
// oldest that runs has taken already. Without it a receiver that has just begun to hang would be
// taken for a fast one.
func (h *holding) expected(now time.Time) time.Duration {
	expected := h.average
	if oldest := h.running.Front(); oldest != nil {
		t, _ := oldest.Value.(*slot)
		expected = max(expected, now.Sub(t.since))
	}
	return expected
}

// leave gives up a place in line for being sent back. False: the slot had come at the same moment
// and is held.
func (s *share) leave(t *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.held {
		return false
	}
	h, now := s.held[t.webhookID], s.now()
	if t.number >= h.wave.to {
		h.wave = s.nextWave(h, now)
	}
	h.line.Remove(t.at)
	t.at = nil
	come := h.wave.at.Add(h.wave.step * time.Duration(t.number-h.wave.from))
	t.after = max(come.Sub(now), shortestWait)
	return true
}

// nextWave is of all that stand in line.
func (s *share) nextWave(h *holding, now time.Time) wave {
	turn := s.turn(h, now)
	first, _ := h.line.Front().Value.(*slot)
	last, _ := h.line.Back().Value.(*slot)
	w := wave{from: first.number, to: last.number + 1, step: min(turn, slowestReturn)}
	w.at = now.Add(s.sendBack(h, now, turn, 0))
	h.returned = w.at.Add(w.step * time.Duration(last.number-first.number))
	return w
}

// give returns a slot after an attempt that took d; 0 where none was made. The first in line gets it.
// fetch is how many parked ones there is room for now: who is told of any fetches them, and calls
// fetched. None are wanted while the webhook's circuit is open: they would only be held back again.
func (s *share) give(t *slot, d time.Duration, open bool) (fetch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[t.webhookID]
	h.running.Remove(t.at)
	t.at, t.held = nil, false
	switch {
	case d <= 0:
	case h.average == 0:
		h.average = d
	default:
		h.average += (d - h.average) / 8
	}
	now := s.now()
	for h.running.Len() < s.limit && h.line.Len() > 0 {
		next, _ := h.line.Remove(h.line.Front()).(*slot)
		h.grant(next, now)
	}
	if !open {
		fetch = s.fetch(h, now)
	}
	if fetch == 0 {
		s.forget(t.webhookID, h, now)
	}
	return fetch
}

// reopened is give for a webhook whose circuit has closed: what it held back is parked.
func (s *share) reopened(webhookID string) (fetch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.of(webhookID)
	h.parked = true
	return s.fetch(h, s.now())
}

// fetch is how many parked ones to fetch now. The lock is held.
func (s *share) fetch(h *holding, now time.Time) int {
	free := s.limit - h.running.Len()
	// Those that were fetched last may be on their way still, unless nothing runs: then nobody may be left
	// whose end would be the occasion.
	again := now.Sub(h.fetched) >= fetchAgain || h.running.Len() == 0
	if !h.parked || h.fetching || h.line.Len() > 0 || free < s.manyFree() || !again {
		return 0
	}
	h.fetching = true
	turn := max(h.average/time.Duration(s.limit), fetchAhead/maxFetch)
	return min(free+int(fetchAhead/turn), maxFetch)
}

// of is what the webhook holds. The lock is held.
func (s *share) of(webhookID string) *holding {
	h := s.held[webhookID]
	if h == nil {
		h = &holding{running: list.New(), line: list.New()}
		s.held[webhookID] = h
	}
	return h
}

// fetched says that parked deliveries were fetched. all: there are no more.
func (s *share) fetched(webhookID string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.held[webhookID], s.now()
	h.fetching, h.fetched = false, now
	if all {
		h.parked, h.returned, h.fetched = false, time.Time{}, time.Time{}
	}
	s.forget(webhookID, h, now)
}

// forget forgets what a quiet webhook's attempts took.
func (s *share) forget(webhookID string, h *holding, now time.Time) {
	if h.running.Len() == 0 && !h.fetching && now.Sub(h.returned) > idleHolding && now.Sub(h.fetched) > idleHolding {
		delete(s.held, webhookID)
	}
}
