package queue

import (
	"sync"
	"sync/atomic"
	"time"
)

// notifier tells any number of waiters that something happened. A notice that comes while its
// waiter is busy is kept, once.
type notifier struct {
	mu      sync.Mutex
	waiters map[chan struct{}]struct{}
}

// subscribe gives a channel that holds at most one notice, and the function that ends it.
func (n *notifier) subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiters == nil {
		n.waiters = make(map[chan struct{}]struct{})
	}
	n.waiters[ch] = struct{}{}
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.waiters, ch)
	}
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ch := range n.waiters {
		select {
		case ch <- struct{}{}:
		default: // the waiter has not taken the last notice yet, which says the same
		}
	}
}

// throttle lets one through in each period, so that an outage fills no log.
type throttle struct{ last atomic.Int64 }

func (t *throttle) allow(period time.Duration) bool {
	now := time.Now().UnixNano()
	last := t.last.Load()
	return now-last >= int64(period) && t.last.CompareAndSwap(last, now)
}
