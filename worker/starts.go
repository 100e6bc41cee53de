package worker

import (
	"slices"
	"sync"
	"time"

	"github.com/intervengine/webhooks/models"
)

// starts lets the requests to one webhook begin in the order in which their deliveries were created, as far as
// they are about to begin at the same moment. Each attempt has a goroutine of its own, which run in any order.
//
// A request has begun when it is on the wire. Where that takes longestStart, because there is no connection yet, the
// next one begins beside it: the receiver sees them in about their order, and nobody waits for longer than
// startPatience.
type starts struct {
	mu    sync.Mutex
	lines map[string]*startLine // by webhook, of those that have one that begins
}

type startLine struct {
	begins  *begin
	waiting []*begin // the oldest first
	timer   *time.Timer
}

// begin is one request's.
type begin struct {
	claim *models.Claim
	turn  chan struct{}
}

const (
	// longestStart is how long the next request waits for one that does not come onto the wire: a connection that is
	// there takes a tenth of it.
	longestStart = time.Millisecond
	// startPatience bounds what the order costs, whatever is ahead in the line.
	startPatience = 40 * time.Millisecond
)

func newStarts() *starts { return &starts{lines: map[string]*startLine{}} }

// line gives a place in the webhook's line. end must follow.
func (s *starts) line(c *models.Claim) *begin {
	b := &begin{claim: c, turn: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[c.WebhookID]
	if l == nil {
		s.lines[c.WebhookID] = &startLine{begins: b}
		close(b.turn)
		return b
	}
	at, _ := slices.BinarySearchFunc(l.waiting, b, func(a, b *begin) int { return inOrder(a.claim, b.claim) })
	l.waiting = slices.Insert(l.waiting, at, b)
	if l.timer == nil {
		s.bound(l)
	}
	return b
}

// wait returns when it is b's turn, or it has waited for too long.
func (s *starts) wait(b *begin) {
	select {
	case <-b.turn:
		return
	default:
	}
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case <-b.turn:
	case <-timer.C:
		s.end(b)
	}
}

// end says that b has begun, or does not. It may be called again.
func (s *starts) end(b *begin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[b.claim.WebhookID]
	if l == nil {
		return
	}
	if l.begins != b {
		if at := slices.Index(l.waiting, b); at >= 0 {
			l.waiting = slices.Delete(l.waiting, at, at+1)
		}
		return
	}
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.waiting) == 0 {
		delete(s.lines, b.claim.WebhookID)
		return
	}
	l.begins = l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	close(l.begins.turn)
	if len(l.waiting) > 0 {
		s.bound(l)
	}
}

// bound lets the next one begin after longestStart. The lock is held.
func (s *starts) bound(l *startLine) {
	b := l.begins
	l.timer = time.AfterFunc(longestStart, func() { s.end(b) })
}

// spawned follows the start of goroutines that are to run in their order as far as can be: the runtime runs the one
// that was started last first.
func spawned() { go func() {}() }
