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
// gets a burst is kept busy. Where it does not, they go back to the database, each behind the one
// before, about as fast as the receiver takes them: a backlog is claimed once or twice on its
// way, not over and over.
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
}

// slot is one attempt's place: held when ready is closed, else in line, else sent back for after.
type slot struct {
	webhookID string
	ready     chan struct{}
	since     time.Time
	after     time.Duration
	at        *list.Element // in running or line; nil: sent back
	held      bool
}

const (
	// patience is how long a delivery may stand in line: its claim must still start in time.
	patience = 300 * time.Millisecond
	// maxLine bounds the line of one webhook.
	maxLine = 1024
	// shortestWait is the least that a delivery is sent back for.
	shortestWait = 100 * time.Millisecond
	// slowestReturn is the longest distance between two that were sent back. A receiver that takes
	// them more slowly than that costs this many idle claims a second, and one that recovers has
	// its backlog at this rate at least.
	slowestReturn = 20 * time.Millisecond
	// idleHolding is how long a quiet webhook is remembered after the last one that it sent back.
	idleHolding = time.Minute
)

func newShare(limit int, now func() time.Time) *share {
	return &share{limit: max(limit, 1), now: now, held: map[string]*holding{}}
}

// take gets a slot for the webhook, a place in line, or the time after which to come again.
func (s *share) take(webhookID string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[webhookID]
	if h == nil {
		h = &holding{running: list.New(), line: list.New()}
		s.held[webhookID] = h
	}
	now := s.now()
	t := &slot{webhookID: webhookID, ready: make(chan struct{})}
	if h.running.Len() < s.limit {
		h.grant(t, now)
		return t
	}
	// Each place in line is one turn further from the slots, which end one after the other.
	turn := h.expected(now) / time.Duration(s.limit)
	if h.line.Len() < maxLine && turn*time.Duration(h.line.Len()+1) <= patience {
		t.at = h.line.PushBack(t)
		return t
	}
	t.after = h.sendBack(now, turn, h.line.Len())
	return t
}

// sendBack says when one that finds no slot comes again: behind all that were sent back before, and
// behind so many in line, where nobody stands for longer than its patience.
func (h *holding) sendBack(now time.Time, turn time.Duration, ahead int) time.Duration {
	if earliest := now.Add(shortestWait + min(turn*time.Duration(ahead), patience)); h.returned.Before(earliest) {
		h.returned = earliest
	}
	h.returned = h.returned.Add(min(turn, slowestReturn))
	return h.returned.Sub(now)
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
	h.line.Remove(t.at)
	t.at = nil
	// Those who still stand there came later.
	t.after = h.sendBack(now, h.expected(now)/time.Duration(s.limit), 0)
	return true
}

// give returns a slot after an attempt that took d; 0 where none was made. The first in line gets
// it.
func (s *share) give(t *slot, d time.Duration) {
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
	// What a quiet webhook's attempts took is forgotten with it.
	if h.running.Len() == 0 && now.Sub(h.returned) > idleHolding {
		delete(s.held, t.webhookID)
	}
}
