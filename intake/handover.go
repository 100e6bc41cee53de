package intake

import (
	"time"

	"github.com/google/uuid"

	"github.com/intervengine/webhooks/models"
)

// Attempter makes attempts in this process.
type Attempter interface {
	// Reserve makes room for an attempt of each of deliveries, which are not written yet, without waiting. It
	// tells for which there is some, and for how long they are to be claimed.
	Reserve(deliveries []*models.Delivery) (reserved []models.Reserved, lease time.Duration)
	// Release gives back reserved room that is not needed.
	Release(places int)
	// Attempt uses reserved room, one place a claim, and does not wait for the attempts. since is
	// a time from before the claims were made, by this process's clock.
	Attempt(claims []models.Claim, since time.Time)
}

// handover gives what a commit makes due to the worker of this process. The deliveries are written
// claimed, so that neither the queue nor a claim stands between commit and attempt. What would
// only be told to wait is written so at once: it is not claimed for nothing. What the worker has no
// room for goes the way of all others. The queue is reminded of all of them.
type handover struct {
	to     Attempter // nil: no worker here
	since  time.Time
	places int // reserved and not used yet
}

// slowCommit is how long a commit may take for the next one to hand anything over: a claim must be
// used within a second of the commit's begin, and one that has to be given back costs more than a task.
const slowCommit = 300 * time.Millisecond

// claim claims what is due among rows as far as there is room. A transaction that is tried again
// calls it again.
func (h *handover) claim(rows []models.NewEvent, now time.Time) {
	h.release()
	if h.to == nil {
		return
	}
	var due []*models.Delivery
	for n := range rows {
		if rows[n].Test {
			continue // its webhook was read before the transaction and may have changed since
		}
		for k := range rows[n].Deliveries {
			if d := &rows[n].Deliveries[k]; d.Status == models.DeliveryPending && d.StatusReason == nil {
				due = append(due, d)
			}
		}
	}
	if len(due) == 0 {
		return
	}
	reserved, lease := h.to.Reserve(due)
	token, until := uuid.NewString(), now.Add(lease)
	for n, d := range due {
		switch {
		case reserved[n].Held:
			h.places++
			d.ClaimToken, d.ClaimedUntil = &token, &until
		case reserved[n].Wait > 0:
			d.NextAttemptAt = new(models.Instant(now.Add(reserved[n].Wait)))
			d.StatusReason, d.StatusDetail = &reserved[n].Reason, &reserved[n].Detail
		}
	}
}

// start starts the attempts of what was committed.
func (h *handover) start(committed []models.EventResult) {
	if h.places == 0 {
		return
	}
	claims := make([]models.Claim, 0, h.places)
	for _, c := range committed {
		for _, d := range c.Deliveries {
			if d.ClaimToken != nil {
				claims = append(claims, claimOf(c.Event, d))
			}
		}
	}
	h.places -= len(claims)
	h.to.Attempt(claims, h.since)
}

// release gives back what was reserved in vain.
func (h *handover) release() {
	if h.places > 0 {
		h.to.Release(h.places)
		h.places = 0
	}
}

// claimOf is the claim of a delivery's first attempt.
func claimOf(e models.Event, d models.Delivery) models.Claim {
	c := models.Claim{
		DeliveryID: d.ID, Tenant: d.Tenant, EventID: e.ID, WebhookID: d.WebhookID, WebhookRevision: d.Revision,
		EventType: e.EventType, EventTimestamp: e.Timestamp, Data: *e.Data, Number: 1, Trigger: d.AttemptTrigger,
		Token: *d.ClaimToken, ClaimedAt: *d.ClaimedAt, CreatedAt: d.CreatedAt,
	}
	if d.Body != nil {
		c.Data = *d.Body
	}
	return c
}
