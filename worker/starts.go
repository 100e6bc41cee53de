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
// A request has begun when it is on the wire. One that does not come to that, because there is no connection yet or
// this machine is busy, keeps the next ones for a moment only, and nobody waits for longer than startPatience: the
// receiver sees them in about their order.
type starts struct {
	mu    sync.Mutex
	lines map[string]*startLine // by webhook, of those that have one that begins
}

// startLine is of those that have not begun.
type startLine struct {
	order  []*begin // the oldest first
	ready  int      // how many of them wait for their turn
	missed int      // how many came onto the wire too late, one after the other
	timer  *time.Timer
	timed  *begin // for whom that is: the first one, as long as somebody waits for it
}

// begin is one request's. It has its turn once turn is closed.
type begin struct {
	claim  *models.Claim
	turn   chan struct{}
	ready  bool
	passed bool // it has its turn
}

const (
	// longestReady is how long others wait for one that is about to come for its turn.
	longestReady = 5 * time.Millisecond
	// longestWrite is how long they wait for one to come onto the wire, which takes a thirtieth of it where there
	// is a connection. Where it is not enough time and again, as with a receiver that is far away and closes
	// its connections, it is halved each time, at most mostMissed times.
	longestWrite = 3 * time.Millisecond
	mostMissed   = 4
	// startPatience bounds what the order costs, whatever is ahead in the line.
	startPatience = 100 * time.Millisecond
)

func newStarts() *starts { return &starts{lines: map[string]*startLine{}} }

// line gives a place in the webhook's line. end must follow.
func (s *starts) line(c *models.Claim) *begin {
	b := &begin{claim: c, turn: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[c.WebhookID]
	if l == nil {
		l = &startLine{}
		s.lines[c.WebhookID] = l
	}
	var begun int
	if len(l.order) > 0 && l.order[0].passed {
		begun = 1
	}
	at, _ := slices.BinarySearchFunc(l.order[begun:], b, func(a, b *begin) int { return inOrder(a.claim, b.claim) })
	l.order = slices.Insert(l.order, begun+at, b)
	s.next(c.WebhookID, l)
	return b
}

// wait returns when it is b's turn, or it has waited for too long. It may be called again.
func (s *starts) wait(b *begin) {
	if s.ready(b) {
		return
	}
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	select {
	case <-b.turn:
	case <-timer.C:
		s.end(b)
	}
}

// ready says that b waits for its turn, and reports whether it has it.
func (s *starts) ready(b *begin) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[b.claim.WebhookID]; l != nil && !b.passed && !b.ready {
		b.ready = true
		l.ready++
		s.next(b.claim.WebhookID, l)
	}
	return b.passed
}

// end says that b is on the wire, or will not come to that. It may be called again.
func (s *starts) end(b *begin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[b.claim.WebhookID]; l != nil {
		if l.timed == b && b.passed {
			l.missed = 0
		}
		s.leave(l, b)
	}
}

// late lets b begin beside those behind it.
func (s *starts) late(b *begin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[b.claim.WebhookID]; l != nil && l.timed == b {
		if b.passed {
			l.missed = min(l.missed+1, mostMissed)
		}
		s.leave(l, b)
	}
}

// leave takes b out of the line. The lock is held.
func (s *starts) leave(l *startLine, b *begin) {
	at := slices.Index(l.order, b)
	if at < 0 {
		return
	}
	l.order = slices.Delete(l.order, at, at+1)
	l.pass(b)
	s.next(b.claim.WebhookID, l)
}

// pass gives b its turn.
func (l *startLine) pass(b *begin) {
	if b.passed {
		return
	}
	if b.ready {
		l.ready--
	}
	b.passed = true
	close(b.turn)
}

// next gives the first one its turn if it waits for it, and bounds for how long others wait for it. The lock is held.
func (s *starts) next(webhookID string, l *startLine) {
	if len(l.order) == 0 {
		l.stopTimer()
		delete(s.lines, webhookID)
		return
	}
	first, within := l.order[0], longestReady
	turn := first.ready && !first.passed
	if turn {
		l.pass(first)
	}
	if first.passed {
		within = longestWrite >> l.missed
	}
	switch {
	case l.ready == 0:
		l.stopTimer()
	case turn || l.timed != first:
		l.stopTimer()
		l.timed, l.timer = first, time.AfterFunc(within, func() { s.late(first) })
	}
}

func (l *startLine) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timed, l.timer = nil, nil
}

// spawned follows the start of goroutines that are to run in their order as far as can be: the runtime runs the one
// that was started last first.
func spawned() { go func() {}() }
