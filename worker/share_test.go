package worker

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func isHeld(s *slot) bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

func TestShare_HoldsNoMoreThanItsPart(t *testing.T) {
	t.Parallel()
	s := newShare(2, time.Now)
	first, second, third := s.take("a", false, false), s.take("a", false, false), s.take("a", false, false)
	assert.True(t, isHeld(first))
	assert.True(t, isHeld(second))
	assert.False(t, isHeld(third))
	assert.True(t, isHeld(s.take("b", false, false)), "another webhook has its own")
	s.give(first, time.Millisecond, false)
	assert.True(t, isHeld(third), "the first in line follows")
	assert.False(t, s.leave(third), "who has the slot cannot leave the line")
}

func TestShare_WhoLeavesTheLineComesBackLater(t *testing.T) {
	t.Parallel()
	s := newShare(1, time.Now)
	held := s.take("a", false, false)
	waiting, next := s.take("a", false, false), s.take("a", false, false)
	assert.True(t, s.leave(waiting))
	assert.GreaterOrEqual(t, waiting.after, shortestWait)
	s.give(held, time.Millisecond, false)
	assert.False(t, isHeld(waiting))
	assert.True(t, isHeld(next))
}

// How long the attempts take is not known yet, so all stand in line, and lose patience together: they
// come back one after the other, not each behind all the others.
func TestShare_ALineThatLosesPatienceComesBackSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(4, time.Now)
		for range 4 {
			s.take("a", false, false)
		}
		line := make([]*slot, 56)
		for n := range line {
			line[n] = s.take("a", false, false)
		}
		time.Sleep(patience)
		for n, waiting := range line {
			assert.True(t, s.leave(waiting))
			assert.LessOrEqual(t, waiting.after, shortestWait+time.Duration(n+1)*patience/4)
		}
	})
}

// Whatever an attempt takes by now, nobody stands in line for longer than its patience.
func TestShare_NobodyWaitsForALineThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(1, time.Now)
		for range 100 {
			s.take("a", false, false)
		}
		time.Sleep(patience)
		assert.LessOrEqual(t, s.take("a", false, false).after, shortestWait+patience+patience)
	})
}

func TestShare_AQuietWebhookIsForgotten(t *testing.T) {
	t.Parallel()
	s := newShare(1, time.Now)
	s.give(s.take("a", false, false), time.Millisecond, false)
	assert.Empty(t, s.held)
}

// comes is a delivery that comes to the share at a time.
type comes struct {
	at     time.Time
	parked bool
}

type queued []comes

func (q queued) Len() int           { return len(q) }
func (q queued) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queued) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queued) Push(x any)        { *q = append(*q, x.(comes)) }
func (q *queued) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// A backlog of 10,000 to a webhook whose attempts take that long, 5,000 claims a second at most: how
// often it is claimed for nothing, and whether its slots stay busy.
func TestShare_ABacklogIsNotClaimedOverAndOver(t *testing.T) {
	t.Parallel()
	always := func(d time.Duration) func(time.Duration) time.Duration {
		return func(time.Duration) time.Duration { return d }
	}
	for name, test := range map[string]struct {
		takes      func(since time.Duration) time.Duration
		minute     int     // at least so many attempts in the first minute
		idleClaims float64 // at most so many claims for nothing, for each second
	}{
		"that hangs":   {always(15 * time.Second), 3 * 128, 20},
		"slow":         {always(2 * time.Second), 28 * 128, 100},
		"a little off": {always(200 * time.Millisecond), 10_000, 1000},
		"fast":         {always(5 * time.Millisecond), 10_000, 5000},
		"that recovers": {func(since time.Duration) time.Duration {
			if since < 20*time.Second {
				return 15 * time.Second
			}
			return 5 * time.Millisecond
		}, 10_000, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newShare(128, time.Now)
				began := time.Now()
				arrivals := make(queued, 10_000)
				for i := range arrivals {
					arrivals[i].at = began
				}
				done, idle := 0, 0
				ended := make(chan int, 10_000)
				back := make(chan time.Duration, 10_000)
				for time.Since(began) < time.Minute && done < 10_000 {
					for range 5 { // a millisecond's claims
						if arrivals.Len() == 0 || arrivals[0].at.After(time.Now()) {
							break
						}
						came := heap.Pop(&arrivals).(comes)
						go func() {
							slot := s.take("w", came.parked, false)
							if slot.after == 0 {
								timer := time.NewTimer(patience)
								defer timer.Stop()
								select {
								case <-slot.ready:
								case <-timer.C:
								}
								if !s.leave(slot) {
									takes := test.takes(time.Since(began))
									time.Sleep(takes)
									ended <- s.give(slot, takes, false)
									return
								}
							}
							back <- slot.after
						}()
					}
					time.Sleep(time.Millisecond)
					synctest.Wait()
					for len(back) > 0 {
						heap.Push(&arrivals, comes{time.Now().Add(<-back), true})
						idle++
					}
					for len(ended) > 0 {
						done++
						if fetch := <-ended; fetch > 0 {
							got := min(fetch, arrivals.Len())
							for range got {
								heap.Pop(&arrivals)
							}
							for range got {
								heap.Push(&arrivals, comes{time.Now(), true})
							}
							s.fetched("w", got < fetch)
						}
					}
				}
				took := time.Since(began).Seconds()
				t.Logf("%d done in %.1f s, %d claims for nothing", done, took, idle)
				assert.GreaterOrEqual(t, done, test.minute*9/10)
				// The first second finds out how long the attempts take.
				assert.LessOrEqual(t, float64(idle), 20_000+test.idleClaims*took)
				time.Sleep(time.Hour) // let those that run end
			})
		})
	}
}

// A worker that starts learns from a parked delivery that there are some, and fetches until there are no more.
func TestShare_ParkedOnesAreFetched(t *testing.T) {
	t.Parallel()
	s := newShare(2, time.Now)
	assert.Zero(t, s.give(s.take("a", false, false), time.Millisecond, false), "nothing is known to be parked")
	assert.Positive(t, s.give(s.take("a", true, false), time.Millisecond, false))
	assert.Zero(t, s.give(s.take("a", false, false), time.Millisecond, false), "one fetches already")
	s.fetched("a", false)
	first, second := s.take("a", true, false), s.take("a", true, false)
	assert.Zero(t, s.give(first, time.Millisecond, false), "those that were fetched are on their way")
	assert.Positive(t, s.give(second, time.Millisecond, false), "nobody is left who would fetch more")
	s.fetched("a", true)
	assert.Zero(t, s.give(s.take("a", false, false), time.Millisecond, false), "there are no more")
	assert.Empty(t, s.held)
}

// What an open circuit held back is fetched when it closes, and not before.
func TestShare_ACircuitThatCloses(t *testing.T) {
	t.Parallel()
	s := newShare(2, time.Now)
	assert.Zero(t, s.give(s.take("a", true, false), time.Millisecond, true), "it is open")
	assert.Positive(t, s.reopened("a"))
	assert.Zero(t, s.reopened("a"), "one fetches already")
	s.fetched("a", true)
	assert.Empty(t, s.held)
	assert.Positive(t, s.reopened("b"), "nothing of it was ever here")
	s.fetched("b", false)
	assert.Positive(t, s.give(s.take("b", true, false), time.Millisecond, false), "there may be more")
	s.fetched("b", true)
	busy := []*slot{s.take("b", false, false), s.take("b", false, false)}
	assert.Zero(t, s.reopened("b"), "no slot is free")
	assert.Positive(t, s.give(busy[0], time.Millisecond, false), "now one is")
}

// A delivery that would be sent back need not be claimed for that.
func TestShare_FullTellsBeforeTheClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(1, time.Now)
		assert.Zero(t, s.full("a", false))
		s.take("a", false, false)
		assert.Zero(t, s.full("a", false), "it may stand in line")
		time.Sleep(2 * patience)
		first, second := s.full("a", false), s.full("a", false)
		assert.GreaterOrEqual(t, first, shortestWait)
		assert.Greater(t, second, first, "one after the other")
	})
}

// Those that lose patience do so in any order, and come again in that of the line, those that stood there
// behind them as well.
func TestShare_ALineThatLosesPatienceKeepsItsOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(2, time.Now)
		s.give(s.take("a", false, false), 10*time.Millisecond, false)
		for range 2 {
			s.take("a", false, false)
		}
		line := make([]*slot, 20)
		for n := range line {
			line[n] = s.take("a", false, false)
			assert.Zero(t, line[n].after)
		}
		time.Sleep(patience)
		leaving := slices.Clone(line)
		rand.Shuffle(len(leaving), func(i, j int) { leaving[i], leaving[j] = leaving[j], leaving[i] })
		for _, waiting := range leaving {
			assert.True(t, s.leave(waiting))
		}
		last := s.take("a", false, false).after
		for n, waiting := range line[1:] {
			assert.Greater(t, waiting.after, line[n].after)
			assert.Greater(t, last, waiting.after)
		}
	})
}

// What comes while others are parked does not overtake them, but for what somebody waits for. Where many slots are
// free nobody is kept from them.
func TestShare_ParkedOnesAreFirst(t *testing.T) {
	t.Parallel()
	const slots, freeAtMost = 16, 1
	s := newShare(slots, time.Now)
	var running []*slot
	for range slots - freeAtMost - 1 {
		running = append(running, s.take("a", true, false))
	}
	assert.Zero(t, s.full("a", false))
	running = append(running, s.take("a", false, false))
	assert.True(t, isHeld(running[len(running)-1]), "many slots are free")
	assert.Positive(t, s.full("a", false))
	assert.Zero(t, s.full("a", true))
	after := s.take("a", false, false).after
	assert.GreaterOrEqual(t, after, shortestWait, "though a slot is free")
	person := s.take("a", false, true)
	assert.True(t, isHeld(person))
	s.give(person, 0, false)
	parked := s.take("a", true, false)
	assert.True(t, isHeld(parked))
	s.give(parked, 0, false)
	s.fetched("a", true)
	assert.True(t, isHeld(s.take("a", false, false)), "there are no more")
}

// That there may be parked ones keeps nobody for as long as attempts take where a slot is free.
func TestShare_BehindParkedOnesIsNotForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(16, time.Now)
		s.give(s.take("a", true, false), 10*time.Second, false)
		s.fetched("a", false)
		for range 15 {
			s.take("a", true, false)
		}
		for n := range 5 {
			after := s.take("a", false, false).after
			assert.Positive(t, after)
			assert.LessOrEqual(t, after, shortestWait+time.Duration(n+1)*slowestReturn)
		}
	})
}
