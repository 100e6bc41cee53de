package worker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/intervengine/webhooks/models"
)

// startsOf lets n deliveries of a webhook come in any order, behind one that begins, and tells in which they begin and
// when. ends says whether one that begins ends at once.
func startsOf(s *starts, n int, ends bool) (order []int, at []time.Time) {
	began := time.Now()
	claims := make([]*models.Claim, n)
	for i := range claims {
		claims[i] = &models.Claim{WebhookID: "w", DeliveryID: fmt.Sprintf("%03d", i), CreatedAt: began.Add(time.Duration(i/3) * time.Hour)}
	}
	before := s.line(&models.Claim{WebhookID: "w"})
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, i := range rand.Perm(n) {
		b := s.line(claims[i])
		all.Go(func() {
			s.wait(b)
			mu.Lock()
			order, at = append(order, i), append(at, time.Now())
			mu.Unlock()
			if !ends {
				time.Sleep(time.Hour)
			}
			s.end(b)
			s.end(b)
		})
	}
	synctest.Wait()
	if ends {
		s.end(before)
	}
	all.Wait()
	s.end(before)
	return order, at
}

func TestStarts_InOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, began := newStarts(), time.Now()
		order, at := startsOf(s, 50, true)
		for n, i := range order {
			assert.Equal(t, n, i)
		}
		assert.Equal(t, began, at[len(at)-1], "nobody waits for a time")
		assert.Empty(t, s.lines)
	})
}

// One that takes long to begin keeps the next one for longestStart, and nobody waits for longer than startPatience.
func TestStarts_NobodyIsKeptForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, began := newStarts(), time.Now()
		const n = 200
		order, at := startsOf(s, n, false)
		inTurn := int(startPatience/longestStart - 1)
		for n, i := range order[:inTurn] {
			assert.Equal(t, n, i)
			assert.Equal(t, time.Duration(n+1)*longestStart, at[n].Sub(began))
		}
		assert.Len(t, order, n)
		assert.Equal(t, startPatience, at[n-1].Sub(began))
		assert.Empty(t, s.lines)
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
