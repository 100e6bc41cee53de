package models

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever came first is next, but for commits of events, which have every other turn at most.
func TestTurns_Order(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		require.NoError(t, turns.take(t.Context(), false))
		var order []string
		var all sync.WaitGroup
		come := func(name string, urgent bool) {
			all.Go(func() {
				if assert.NoError(t, turns.take(t.Context(), urgent)) {
					order = append(order, name)
					turns.pass()
				}
			})
			synctest.Wait()
		}
		for _, name := range []string{"other 1", "other 2", "other 3"} {
			come(name, false)
		}
		for _, name := range []string{"event 1", "event 2", "event 3", "event 4", "event 5"} {
			come(name, true)
		}
		turns.pass()
		all.Wait()
		assert.Equal(t, []string{"event 1", "other 1", "event 2", "other 2", "event 3", "other 3", "event 4", "event 5"}, order)
	})
}

// Whoever gives up waiting leaves no gap, whether its turn came just then or not.
func TestTurns_GivingUp(t *testing.T) {
	t.Parallel()
	var turns turns
	var inside, most atomic.Int32
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				if turns.take(ctx, n%2 == 0) != nil {
					continue
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				runtime.Gosched()
				inside.Add(-1)
				turns.pass()
			}
		})
	}
	all.Wait()
	assert.Equal(t, int32(1), most.Load())
	require.NoError(t, turns.take(t.Context(), false), "the last one did not give its turn back")
	assert.Empty(t, turns.events)
	assert.Empty(t, turns.others)
}
