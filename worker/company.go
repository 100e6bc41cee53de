package worker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/intervengine/webhooks/models"
)

// companyWait bounds how long one of a company waits for the others.
const companyWait = 20 * time.Millisecond

// company is what was claimed together for one webhook. Each delivery has a goroutine of its own, and which
// of them runs first is chance: where they do something in turn, they wait for each other first.
type company struct {
	mu      sync.Mutex
	missing int // of the members: who has neither come nor gone
	waiting []turn
	timer   *time.Timer // after which nobody is waited for any more; nil: nobody waits yet
}

// turn is what one of them does when it is its turn. It must not block.
type turn struct {
	claim *models.Claim
	take  func()
}

// inOrder compares by when the deliveries were created.
func inOrder(a, b *models.Claim) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.DeliveryID, b.DeliveryID))
}

// member is one delivery's part in a company; it is its goroutine's own.
type member struct {
	company *company
	counted bool
}

// together makes companies of claims, in place.
func together(claims []claim) {
	byWebhook := make(map[string]*company, len(claims))
	for n := range claims {
		if claims[n].Claim == nil {
			continue
		}
		c := byWebhook[claims[n].WebhookID]
		if c == nil {
			c = &company{}
			byWebhook[claims[n].WebhookID] = c
		}
		c.missing++
		claims[n].member = &member{company: c}
	}
}

// inTurn calls take after those of the older deliveries of the company, as far as they come. It does not
// wait; take may be called by another goroutine. Call it once at most.
func (m *member) inTurn(c *models.Claim, take func()) {
	m.counted = true
	co := m.company
	co.mu.Lock()
	defer co.mu.Unlock()
	co.missing--
	co.waiting = append(co.waiting, turn{claim: c, take: take})
	if co.timer == nil && co.missing > 0 {
		co.timer = time.AfterFunc(companyWait, co.waitNoLonger)
	}
	co.take()
}

// leave says that the delivery does nothing in turn, unless it did.
func (m *member) leave() {
	if m.counted {
		return
	}
	m.counted = true
	m.company.mu.Lock()
	defer m.company.mu.Unlock()
	m.company.missing--
	m.company.take()
}

func (c *company) waitNoLonger() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missing = 0 // who comes later goes at once
	c.take()
}

// take lets everybody go who waits when nobody is missing. The lock is held, so that nobody overtakes.
func (c *company) take() {
	if c.missing > 0 {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	slices.SortFunc(c.waiting, func(a, b turn) int { return inOrder(a.claim, b.claim) })
	for _, t := range c.waiting {
		t.take()
	}
	c.waiting = nil
}
