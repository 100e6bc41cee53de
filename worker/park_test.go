package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is committed for a webhook whose circuit is open need not be claimed to be told so. It comes back
// behind those that were told, and the probe is not late for it.
func TestPark_WhileACircuitIsOpen(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
		c := f.workers[0]
		assert.Zero(t, c.park("w"))
		f.attempts(0, 20, tellsBroken)
		assert.Zero(t, c.park("w"), "somebody must ask, or nobody would come to probe")
		p, first := f.pass(0)
		require.Nil(t, p)
		second := c.park("w")
		assert.GreaterOrEqual(t, second, first)
		assert.Greater(t, c.park("w"), second)
		time.Sleep(testBreaker.Cooldown - shortestWait/2)
		assert.Zero(t, c.park("w"), "it is about to end")

		time.Sleep(shortestWait)
		p, _ = f.pass(0)
		require.NotNil(t, p, "the probe")
		assert.Zero(t, c.park("w"), "the probe may succeed at any moment")
		c.settle(p, tellsBroken)
		synctest.Wait()
		assert.Zero(t, c.park("w"), "nobody has asked since it opened again")
		_, first = f.pass(0)
		assert.GreaterOrEqual(t, c.park("w"), first)
	})
}

// The same with a rate: only where the wait is a long one, and somebody asks every second.
func TestPark_BehindALongLine(t *testing.T) {
	t.Parallel()
	const rate = 10
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		newcomer := func() rateAnswer {
			a, err := l.ask(t.Context(), rateAsk{webhookID: "w", revision: 1, rate: rate}, atOnce)
			require.NoError(t, err)
			return a
		}
		for range rate {
			require.True(t, made(t, l, newcomer()))
		}
		assert.Zero(t, l.park("w", 1))
		var last rateAnswer
		for range 10 * groupSize {
			last = newcomer()
			require.False(t, last.granted)
		}
		parked := l.park("w", 1)
		assert.Equal(t, last.comeBack(), parked)
		for range 2 * groupSize {
			parked = l.park("w", 1)
		}
		assert.Greater(t, parked, last.comeBack(), "behind those that are parked")
		assert.Zero(t, l.park("other", 1))

		time.Sleep(askAgain + time.Millisecond)
		assert.Zero(t, l.park("w", 1), "one asks")
		assert.Positive(t, l.park("w", 1))
		assert.Zero(t, l.park("w", 2), "its rate may be another now")
		assert.Zero(t, l.park("w", 1), "and what was known is forgotten")
	})
}

// Those that wait are cancelled, and newcomers find that out.
func TestPark_TheLineIsGone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		for range 500 {
			if a := one(t, l, 10, false); a.granted {
				require.True(t, made(t, l, a))
			}
		}
		require.Positive(t, l.park("w", 0))
		time.Sleep(5 * time.Second)
		require.Zero(t, l.park("w", 0))
		require.True(t, one(t, l, 10, false).granted)
		assert.Zero(t, l.park("w", 0))
	})
}
