package worker

import (
	"container/heap"
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
	first, second, third := s.take("a"), s.take("a"), s.take("a")
	assert.True(t, isHeld(first))
	assert.True(t, isHeld(second))
	assert.False(t, isHeld(third))
	assert.True(t, isHeld(s.take("b")), "another webhook has its own")
	s.give(first, time.Millisecond)
	assert.True(t, isHeld(third), "the first in line follows")
	assert.False(t, s.leave(third), "who has the slot cannot leave the line")
}

func TestShare_WhoLeavesTheLineComesBackLater(t *testing.T) {
	t.Parallel()
	s := newShare(1, time.Now)
	held := s.take("a")
	waiting, next := s.take("a"), s.take("a")
	assert.True(t, s.leave(waiting))
	assert.GreaterOrEqual(t, waiting.after, shortestWait)
	s.give(held, time.Millisecond)
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
			s.take("a")
		}
		line := make([]*slot, 56)
		for n := range line {
			line[n] = s.take("a")
		}
		time.Sleep(patience)
		for n, waiting := range line {
			assert.True(t, s.leave(waiting))
			assert.LessOrEqual(t, waiting.after, shortestWait+time.Duration(n+1)*slowestReturn)
		}
	})
}

// Whatever an attempt takes by now, nobody stands in line for longer than its patience.
func TestShare_NobodyWaitsForALineThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(1, time.Now)
		for range 100 {
			s.take("a")
		}
		time.Sleep(patience)
		assert.LessOrEqual(t, s.take("a").after, shortestWait+patience+slowestReturn)
	})
}

func TestShare_AQuietWebhookIsForgotten(t *testing.T) {
	t.Parallel()
	s := newShare(1, time.Now)
	s.give(s.take("a"), time.Millisecond)
	assert.Empty(t, s.held)
}

// queued is a delivery that comes to the share at a time.
type queued []time.Time

func (q queued) Len() int           { return len(q) }
func (q queued) Less(i, j int) bool { return q[i].Before(q[j]) }
func (q queued) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queued) Push(x any)        { *q = append(*q, x.(time.Time)) }
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
	for name, test := range map[string]struct {
		takes      time.Duration
		minute     int     // at least so many attempts in the first minute
		idleClaims float64 // at most so many claims for nothing, for each second
	}{
		"that hangs":   {15 * time.Second, 3 * 128, 120},
		"slow":         {2 * time.Second, 28 * 128, 250},
		"a little off": {200 * time.Millisecond, 10_000, 1000},
		"fast":         {5 * time.Millisecond, 10_000, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newShare(128, time.Now)
				began := time.Now()
				arrivals := make(queued, 10_000)
				for i := range arrivals {
					arrivals[i] = began
				}
				done, idle := 0, 0
				ended := make(chan struct{}, 10_000)
				back := make(chan time.Duration, 10_000)
				for time.Since(began) < time.Minute && done < 10_000 {
					for range 5 { // a millisecond's claims
						if arrivals.Len() == 0 || arrivals[0].After(time.Now()) {
							break
						}
						heap.Pop(&arrivals)
						go func() {
							slot := s.take("w")
							if slot.after == 0 {
								timer := time.NewTimer(patience)
								defer timer.Stop()
								select {
								case <-slot.ready:
								case <-timer.C:
								}
								if !s.leave(slot) {
									time.Sleep(test.takes)
									s.give(slot, test.takes)
									ended <- struct{}{}
									return
								}
							}
							back <- slot.after
						}()
					}
					time.Sleep(time.Millisecond)
					synctest.Wait()
					for len(ended) > 0 {
						<-ended
						done++
					}
					for len(back) > 0 {
						heap.Push(&arrivals, time.Now().Add(<-back))
						idle++
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
