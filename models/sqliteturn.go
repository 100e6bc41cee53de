package models

import (
	"context"
	"slices"
	"sync"
)

// turns hands the one writing connection of SQLite from one transaction to the next. The pool
// would do it, too, but to any of those that wait: with several waiting at all times some wait ten
// times as long as the rest. Here whoever came first is next, but for commits of events, on which
// a caller and a receiver wait: every other turn is theirs.
type turns struct {
	mu     sync.Mutex
	taken  bool
	urgent bool // the turn that is taken, or was last
	events []chan struct{}
	others []chan struct{}
}

// take waits for a turn until ctx ends. Every turn that was taken must be given back by pass.
func (t *turns) take(ctx context.Context, urgent bool) error {
	t.mu.Lock()
	if !t.taken {
		t.taken, t.urgent = true, urgent
		t.mu.Unlock()
		return nil
	}
	line := &t.others
	if urgent {
		line = &t.events
	}
	mine := make(chan struct{})
	*line = append(*line, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	select {
	case <-mine: // it came just now, and is of no use anymore
		t.mu.Unlock()
		t.pass()
	default:
		place := slices.Index(*line, mine)
		*line = slices.Delete(*line, place, place+1)
		t.mu.Unlock()
	}
	return ctx.Err()
}

// pass gives the turn to the next who waits.
func (t *turns) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := &t.others
	if len(t.events) > 0 && (!t.urgent || len(t.others) == 0) {
		line = &t.events
	}
	if len(*line) == 0 {
		t.taken = false
		return
	}
	t.urgent = line == &t.events
	close((*line)[0])
	*line = slices.Delete(*line, 0, 1)
}
