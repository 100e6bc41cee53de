package worker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/intervengine/webhooks/models"
)

// startsOf lets n deliveries of a webhook come in any order, behind one that begins, and tells in which they begin and
// when, after they came. written says whether one that begins is on the wire at once or never.
func startsOf(s *starts, n int, written bool) (order []int, at []time.Duration) {
	began := time.Now()
	claims := make([]*models.Claim, n)
	for i := range claims {
		claims[i] = &models.Claim{WebhookID: "w", DeliveryID: fmt.Sprintf("%03d", i), CreatedAt: began.Add(time.Duration(i/3) * time.Hour)}
	}
	before := s.line(&models.Claim{WebhookID: "w", CreatedAt: began.Add(1000 * time.Hour)})
	s.wait(before)
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, i := range rand.Perm(n) {
		b := s.line(claims[i])
		all.Go(func() {
			s.wait(b)
			mu.Lock()
			order, at = append(order, i), append(at, time.Since(began))
			mu.Unlock()
			if !written {
				time.Sleep(time.Hour)
			}
			s.end(b)
			s.end(b)
		})
	}
	synctest.Wait()
	if written {
		s.end(before)
	}
	all.Wait()
	s.end(before)
	return order, at
}

func inTheirOrder(t *testing.T, order []int, n int) {
	t.Helper()
	assert.Len(t, order, n)
	assert.True(t, slices.IsSorted(order), order)
}

func TestStarts_InOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStarts()
		order, at := startsOf(s, 50, true)
		inTheirOrder(t, order, 50)
		assert.Zero(t, at[len(at)-1], "nobody waits for a time")
		assert.Empty(t, s.lines)
	})
}

// One that does not come onto the wire keeps the next one for a moment, and the next ones for ever shorter ones.
func TestStarts_NotWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStarts()
		const n = 200
		order, at := startsOf(s, n, false)
		inTheirOrder(t, order, n)
		var want time.Duration
		for i, got := range at {
			want += longestWrite >> min(i, mostMissed)
			assert.Equal(t, want, got)
		}
		assert.Less(t, want, startPatience)
		assert.Empty(t, s.lines)
	})
}

// One that is on the wire in time makes the next one be waited for in full again.
func TestStarts_WrittenInTimeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStarts()
		place := func(n int) *begin { return s.line(&models.Claim{WebhookID: "w", DeliveryID: strconv.Itoa(n)}) }
		one, two, three, four := place(1), place(2), place(3), place(4)
		s.wait(one)
		wait := func(b *begin) time.Duration {
			since := time.Now()
			s.wait(b)
			return time.Since(since)
		}
		assert.Equal(t, longestWrite, wait(two))
		go func() {
			time.Sleep(longestWrite / 4)
			s.end(two)
		}()
		assert.Equal(t, longestWrite/4, wait(three), "within half the time: in time")
		assert.Equal(t, longestWrite, wait(four))
		for _, b := range []*begin{one, two, three, four} {
			s.end(b)
		}
		assert.Empty(t, s.lines)
	})
}

// One that does not come for its turn keeps those that do for longestReady, and nobody waits for longer than startPatience.
func TestStarts_NotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const patient = int(startPatience / longestReady)
		for _, missing := range []int{1, 2, patient - 1, patient, patient + 1, 10 * patient} {
			s, came := newStarts(), time.Now()
			var gone []*begin
			for range missing {
				gone = append(gone, s.line(&models.Claim{WebhookID: "w", CreatedAt: came}))
			}
			time.Sleep(time.Second) // as long as nobody waits for them
			since := time.Now()
			b := s.line(&models.Claim{WebhookID: "w", CreatedAt: came.Add(time.Second)})
			s.wait(b)
			assert.Equal(t, longestReady*time.Duration(min(missing, patient)), time.Since(since), missing)
			s.end(b)
			for _, b := range gone {
				s.wait(b)
				s.end(b)
			}
			assert.Empty(t, s.lines)
		}
	})
}

// What is older than those that wait comes before them, but not before one that has its turn.
func TestStarts_OlderOnesComeLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, began := newStarts(), time.Now()
		place := func(age time.Duration) *begin {
			return s.line(&models.Claim{WebhookID: "w", CreatedAt: began.Add(-age)})
		}
		turn := place(0)
		s.wait(turn)
		young := place(time.Second)
		var order []string
		var all sync.WaitGroup
		all.Go(func() {
			s.wait(young)
			order = append(order, "young")
			s.end(young)
		})
		synctest.Wait()
		old := place(time.Hour)
		all.Go(func() {
			s.wait(old)
			order = append(order, "old")
			s.end(old)
		})
		synctest.Wait()
		assert.Empty(t, order)
		s.end(turn)
		all.Wait()
		assert.Equal(t, []string{"old", "young"}, order)
		assert.Equal(t, began, time.Now())
	})
}

func TestStarts_AWebhookOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, began := newStarts(), time.Now()
		one, other := s.line(&models.Claim{WebhookID: "one"}), s.line(&models.Claim{WebhookID: "other"})
		s.wait(one)
		s.wait(other)
		assert.Equal(t, began, time.Now())
		s.end(one)
		s.end(other)
		assert.Empty(t, s.lines)
	})
}
