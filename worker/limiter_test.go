package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noWindowOver fails where more than rate of the moments lie within one second.
func noWindowOver(t *testing.T, rate int, at []time.Time) {
	t.Helper()
	slices.SortFunc(at, time.Time.Compare)
	for i := rate; i < len(at); i++ {
		if d := at[i].Sub(at[i-rate]); d < time.Second {
			t.Fatalf("requests %d to %d of %d came within %s, at most %d may in a second", i-rate, i, len(at), d, rate)
		}
	}
}

// Deliveries ask through several processes, wait as they are told, and come to the receiver however much
// later: at once as a rule, and now and then a second and more after they were granted or written.
func TestLimiter_NoSecondHoldsMore(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rate, processes, deliveries int
		work                        time.Duration // the receiver's, after it has noted the request
	}{
		{1, 1, 8, 0},
		{1, 3, 12, 0},
		{2, 2, 20, 0},
		{5, 4, 60, 0},
		{10, 3, 100, 400 * time.Millisecond},
		{50, 4, 400, 0},
		{300, 2, 1500, 0},
		{10, 2, 400, 3 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d a second, %d processes, %d deliveries, %s", test.rate, test.processes, test.deliveries, test.work), func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(uint64(test.rate), uint64(test.processes)))
				upTo := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }
				limiters := make([]*limiter, test.processes)
				ways := make([]way, test.processes)
				for i := range limiters {
					client := bubbleClient(server)
					defer client.Close()
					limiters[i] = newLimiter(client)
					limiters[i].start(t.Context())
				}
				var arrived instants
				var asks atomic.Int64
				var lost atomic.Int64 // of the time that places are kept for
				var all sync.WaitGroup
				began := time.Now()
				for n := range test.deliveries {
					offset := upTo(2 * time.Second)
					write, network := upTo(5*time.Millisecond), upTo(20*time.Millisecond)
					lateness := upTo(20 * time.Millisecond)
					switch n % 20 {
					case 3:
						write += 1200 * time.Millisecond
					case 7:
						// What has not come when it counts as come is beyond what is promised.
						network += min(1200*time.Millisecond, longUnanswered-test.work)
						network = max(network, 0)
					}
					lost.Add(int64(write + network))
					l, w := limiters[n%len(limiters)], &ways[n%len(limiters)]
					all.Go(func() {
						time.Sleep(offset)
						for returning := false; ; returning = true {
							asks.Add(1)
							a, err := l.ask(context.Background(), rateAsk{
								webhookID: "w", rate: test.rate, returning: returning, created: began.Add(offset), late: w.usually(),
							}, atOnce)
							if !assert.NoError(t, err) {
								return
							}
							if !a.granted {
								time.Sleep(a.comeBack() + lateness) // on its way through the queue
								continue
							}
							l.await(context.Background(), a)
							s := l.begin(a, w)
							if s == nil {
								time.Sleep(shortestWait)
								continue
							}
							time.Sleep(write)
							s.written()
							time.Sleep(network)
							arrived.add()
							time.Sleep(test.work)
							s.answered()
							s.end()
							return
						}
					})
				}
				all.Wait()
				noWindowOver(t, test.rate, arrived.at)

				// The limit is used, not only kept: what it costs is how late requests come, and a little.
				ideal := time.Duration(test.deliveries) * time.Second / time.Duration(test.rate)
				unknown := min(test.work, longUnanswered) * 8 // until it is known how slow the receiver is
				took := time.Since(began)
				t.Logf("%s, %s would be the limit; %d asks", took, ideal, asks.Load())
				assert.Less(t, took, ideal*12/10+time.Duration(lost.Load())/time.Duration(test.rate)+5*time.Second+unknown)
				// And nobody is claimed over and over: once to learn its group's time, once to learn its
				// own, once at it.
				assert.Less(t, float64(asks.Load())/float64(test.deliveries), 3.5)
				for _, l := range limiters {
					require.NoError(t, l.stop(t.Context()))
				}
			})
		})
	}
}

func atOnce(ask func()) { ask() }

func one(t *testing.T, l *limiter, rate int, returning bool) rateAnswer {
	t.Helper()
	a, err := l.ask(context.Background(), rateAsk{webhookID: "w", rate: rate, returning: returning}, atOnce)
	require.NoError(t, err)
	return a
}

// made starts what was granted and sees it answered at once; false: it was too late to start.
func made(t *testing.T, l *limiter, a rateAnswer) bool {
	t.Helper()
	require.True(t, a.granted)
	require.True(t, l.await(t.Context(), a))
	s := l.begin(a, &way{})
	defer synctest.Wait() // until Redis knows
	if s == nil {
		return false
	}
	s.written()
	s.answered()
	s.end()
	return true
}

func inBubble(t *testing.T, test func(t *testing.T, l *limiter, forget func())) {
	t.Helper()
	server := startRedis(t)
	synctest.Test(t, func(t *testing.T) {
		client := bubbleClient(server)
		defer client.Close()
		l := newLimiter(client)
		l.start(t.Context())
		time.Sleep(rateWindow + longestMargin + rateAhead)
		test(t, l, server.FlushAll)
		require.NoError(t, l.stop(t.Context()))
	})
}

// tenStarts goes on at 5 a second until there are ten starts, those at at included.
func tenStarts(t *testing.T, l *limiter, at []time.Time) []time.Time {
	t.Helper()
	for len(at) < 10 {
		a := one(t, l, 5, true)
		if a.granted && made(t, l, a) {
			at = append(at, time.Now())
			continue
		}
		time.Sleep(a.wait)
	}
	return at
}

func TestLimiter_BurstThenPace(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		for range 3 {
			assert.Equal(t, time.Duration(0), one(t, l, 3, false).wait)
		}
		window, pace := 1035*time.Millisecond, 355*time.Millisecond
		for n := range 4 {
			a := one(t, l, 3, false)
			assert.False(t, a.granted)
			assert.InDelta(t, float64(window+time.Duration(n)*pace), float64(a.wait), float64(time.Millisecond))
		}
	})
}

// The line of a rate that is changed ends as much earlier or later.
func TestLimiter_TheLineAtAnotherRate(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		var last rateAnswer
		for range 2 + 100 {
			last = one(t, l, 2, false)
		}
		pace := func(rate int) time.Duration {
			return (rateWindow + 2*shortestMargin + 5*time.Millisecond) / time.Duration(rate)
		}
		line := last.wait
		for _, rate := range []int{20, 1, 2} {
			line = line * time.Duration(last.rate) / time.Duration(rate)
			last = one(t, l, rate, false)
			assert.False(t, last.granted)
			assert.InDelta(t, float64(line+pace(rate)), float64(last.wait), float64(10*time.Millisecond), "at %d a second", rate)
			line = last.wait
		}
	})
}

func TestLimiter_WhoWaitedGoesFirst(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		require.True(t, made(t, l, one(t, l, 1, false)))
		waiting := one(t, l, 1, false)
		require.False(t, waiting.granted)
		time.Sleep(waiting.wait + time.Millisecond)
		newcomer := one(t, l, 1, false)
		assert.False(t, newcomer.granted, "the turn is another's")
		assert.True(t, one(t, l, 1, true).granted)
	})
}

func TestLimiter_TurnsThatNobodyTakesAreFree(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		for n := range 1000 {
			if a := one(t, l, 10, false); n < 10 {
				require.True(t, made(t, l, a))
			}
		}
		// All of them were cancelled: whoever comes next need not wait for their minute and a half.
		time.Sleep(5 * time.Second)
		assert.True(t, one(t, l, 10, false).granted)
	})
}

func TestLimiter_AForgetfulRedisGrantsNothingAtFirst(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, forget func()) {
		var at []time.Time
		for range 5 {
			require.True(t, made(t, l, one(t, l, 5, false)))
			at = append(at, time.Now())
		}
		forget()
		noWindowOver(t, 5, tenStarts(t, l, at))
	})
}

// A Redis that is short of memory may evict the starts of a webhook and nothing else, and be told of
// one of them afterwards.
func TestLimiter_EvictedStartsAreMissed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		var at []time.Time
		for range 4 {
			require.True(t, made(t, l, one(t, l, 5, false)))
			at = append(at, time.Now())
		}
		last := one(t, l, 5, false)
		require.NoError(t, l.redis.Del(t.Context(), rateKeysOf("w")[0]).Err())
		require.True(t, made(t, l, last))
		at = append(at, time.Now())
		noWindowOver(t, 5, tenStarts(t, l, at))
	})
}

// What was granted ahead starts after Redis has forgotten it: the next ones keep their distance from
// it all the same.
func TestLimiter_AForgetfulRedisKeepsAwayFromWhatItGrantedAhead(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, forget func()) {
		require.True(t, made(t, l, one(t, l, 1, false)))
		time.Sleep(rateWindow - rateAhead + 10*time.Millisecond)
		ahead := one(t, l, 1, true)
		require.True(t, ahead.granted)
		require.Greater(t, ahead.wait, rateAhead/2)
		forget()
		next := one(t, l, 1, true) // Redis remembers from now on
		require.False(t, next.granted)
		asked := time.Now()
		require.True(t, made(t, l, ahead))
		started := time.Now()
		time.Sleep(next.wait - time.Since(asked) - rateAhead)
		for {
			a := one(t, l, 1, true)
			if a.granted && made(t, l, a) {
				break
			}
			time.Sleep(a.wait)
		}
		assert.GreaterOrEqual(t, time.Since(started), rateWindow)
	})
}

func TestLimiter_ALowerRateHoldsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		for range 10 {
			require.True(t, made(t, l, one(t, l, 10, false)))
		}
		assert.False(t, one(t, l, 2, false).granted)
		time.Sleep(10 * time.Second)
		assert.True(t, one(t, l, 2, false).granted)
		assert.True(t, one(t, l, 2, false).granted)
		assert.False(t, one(t, l, 2, false).granted)
	})
}

// A grant that is used too late is not used at all.
func TestLimiter_ALateStartIsGivenUp(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, l *limiter, _ func()) {
		a := one(t, l, 1, false)
		require.True(t, a.granted)
		time.Sleep(200 * time.Millisecond)
		assert.False(t, made(t, l, a))
		// Its place is another's.
		assert.True(t, made(t, l, one(t, l, 1, true)))
		// And those after it are given the time that this machine needs.
		time.Sleep(2 * time.Second)
		assert.Greater(t, one(t, l, 1, true).margin, 200*time.Millisecond)
	})
}

func TestLimiter_WithoutRedisNothingStarts(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := bubbleClient(server)
	defer client.Close()
	l := newLimiter(client)
	l.start(t.Context())
	server.SetError("LOADING Redis is loading the dataset in memory")
	_, err := l.ask(t.Context(), rateAsk{webhookID: "w", rate: 5}, atOnce)
	require.Error(t, err)
	require.NoError(t, l.stop(t.Context()))
}
