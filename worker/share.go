package worker

import (
	"sync"
	"time"
)

// share keeps any one webhook from holding more than its part of the process's concurrent
// attempts, so that a receiver that hangs cannot make the others wait.
//
// What does not fit goes back to the database with a later due time, holding no slot meanwhile.
// The wait grows with the number that was already turned away and with how long the webhook's
// attempts take, so that a long backlog comes back about as fast as its receiver takes it
// instead of being claimed and given back over and over.
type share struct {
	limit int // attempts at once per webhook
	now   func() time.Time

	mu   sync.Mutex
	held map[string]*holding
}

type holding struct {
	running  int
	average  time.Duration // of the attempts that ended, weighted towards the newest
	released time.Time     // when the last one that was turned away is due again
}

// The bounds of the wait of a delivery whose webhook has no slot left.
const (
	shortestWait = 100 * time.Millisecond
	longestWait  = 30 * time.Second
	idleHolding  = time.Minute
)

func newShare(limit int, now func() time.Time) *share {
	return &share{limit: max(limit, 1), now: now, held: map[string]*holding{}}
}

// take gets a slot for the webhook. Without one it says after how long to try again.
func (s *share) take(webhookID string) (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[webhookID]
	if h == nil {
		h = &holding{}
		s.held[webhookID] = h
	}
	if h.running < s.limit {
		h.running++
		return 0, true
	}
	// Each one that is turned away queues behind the one before, a slot's turn apart.
	now := s.now()
	turn := h.average / time.Duration(s.limit)
	if h.released.Before(now) {
		h.released = now.Add(shortestWait)
	}
	h.released = h.released.Add(turn)
	if latest := now.Add(longestWait); h.released.After(latest) {
		h.released = latest
	}
	return h.released.Sub(now), false
}

// give returns a slot after an attempt that took d.
func (s *share) give(webhookID string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[webhookID]
	h.running--
	if h.average == 0 {
		h.average = d
	} else {
		h.average += (d - h.average) / 8
	}
	if h.running == 0 && s.now().Sub(h.released) > idleHolding {
		delete(s.held, webhookID)
	}
}
