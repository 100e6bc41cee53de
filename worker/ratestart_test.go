package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// next is how long it takes until another start is made, of a webhook with one start a second.
func next(t *testing.T, l *limiter) time.Duration {
	t.Helper()
	began := time.Now()
	for time.Since(began) < time.Minute {
		a := one(t, l, 1, true)
		if a.granted && made(t, l, a) {
			return time.Since(began)
		}
		time.Sleep(a.wait)
	}
	t.Fatal("nothing starts any more")
	return 0
}

// A start's place is kept until its request has come, whatever happens on the way.
func TestRateStart_KeepsItsPlace(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		least time.Duration // of the answers before
		lives func(s *rateStart)
		want  time.Duration // from the end of lives until the next one may start
	}{
		"answered at once": {lives: func(s *rateStart) { s.written(); s.answered(); s.end() }, want: rateWindow},
		"late to be written": {lives: func(s *rateStart) {
			time.Sleep(3000 * ms)
			s.written()
			s.answered()
			s.end()
		}, want: rateWindow},
		"the first is no measure": {lives: func(s *rateStart) {
			s.written()
			s.way.answered(1900 * ms)
			time.Sleep(1900 * ms)
			s.answered()
			s.end()
		}, want: rateWindow},
		"late to be answered": {lives: func(s *rateStart) {
			s.written()
			time.Sleep(1900 * ms)
			s.answered()
			s.end()
		}, want: rateWindow},
		"as late as ever": {least: 700 * ms, lives: func(s *rateStart) {
			s.written()
			time.Sleep(700 * ms)
			s.answered()
			s.end()
		}, want: rateWindow - 600*ms},
		"later than ever": {least: 700 * ms, lives: func(s *rateStart) {
			s.written()
			time.Sleep(1500 * ms)
			s.answered()
			s.end()
		}, want: rateWindow - 600*ms},
		"never answered":        {lives: func(s *rateStart) { s.written(); time.Sleep(15 * time.Second); s.end() }, want: 0},
		"not answered for long": {lives: func(s *rateStart) { s.written(); time.Sleep(longUnanswered) }, want: rateWindow},
		"not answered for long, as ever": {least: 5 * time.Second, lives: func(s *rateStart) {
			s.written()
			time.Sleep(shortUnanswered)
		}, want: rateWindow},
		"broken off":             {lives: func(s *rateStart) { s.written(); s.end() }, want: longUnanswered + rateWindow},
		"no connection for long": {lives: func(s *rateStart) { time.Sleep(15 * time.Second); s.end() }, want: shortUnanswered + rateWindow},
		"nothing heard of it":    {lives: func(s *rateStart) { s.timer.Stop() }, want: restHold + rateAhead},
		"unused":                 {lives: func(s *rateStart) { s.unused(); s.end() }, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, l *limiter, _ func()) {
				w := &way{}
				w.since, w.previous = time.Now(), test.least
				s := l.begin(one(t, l, 1, false), w)
				require.NotNil(t, s)
				test.lives(s)
				synctest.Wait()
				// Who comes too soon asks again once in a while, and starts are granted for times ahead.
				assert.InDelta(t, float64(test.want), float64(next(t, l)), float64(rateAhead+shortestMargin+10*ms))
				s.end()
			})
		})
	}
}

// Redis is told again of what has not come yet, before it grants anything.
func TestRateStart_KeepsItsPlaceOverALoss(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, forget func()) {
		s := l.begin(one(t, l, 1, false), &way{})
		require.NotNil(t, s)
		forget()
		began := time.Now()
		for time.Since(began) < 10*time.Second {
			a := one(t, l, 1, true)
			require.False(t, a.granted, "after %s", time.Since(began))
			time.Sleep(a.wait)
		}
		s.written()
		s.answered()
		came := time.Now()
		s.end()
		synctest.Wait()
		next(t, l)
		assert.GreaterOrEqual(t, time.Since(came), time.Second)
	})
}

// An ask that nobody waits for any more takes no place.
func TestLimiter_WhoIsGoneTakesNoPlace(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		var gone atomic.Bool
		gone.Store(true)
		ask := rateAsk{webhookID: "w", rate: 1, gone: &gone}
		_, err := l.flush(context.Background(), []rateAsk{ask})
		require.NoError(t, err)
		synctest.Wait()
		assert.True(t, one(t, l, 1, false).granted)
	})
}
