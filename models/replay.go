package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// ReplayStatus is where a replay stands.
type ReplayStatus string

// The states of a replay. RUNNING until the last of its deliveries has ended; CANCELLED by a
// caller, or because its webhook was deleted or disabled.
const (
	ReplayRunning   ReplayStatus = "RUNNING"
	ReplayCompleted ReplayStatus = "COMPLETED"
	ReplayCancelled ReplayStatus = "CANCELLED"
)

// The stages of a replay's walk, in their order.
const (
	ReplayMatched   = "matched"   // events that had a delivery to the webhook
	ReplayUnmatched = "unmatched" // events that had none
	ReplayWalked    = "walked"    // every delivery is made
)

// Replay sends events of a window of time to a webhook once more, as new deliveries under its
// current configuration.
type Replay struct {
	ID        string `gorm:"primaryKey"`
	Tenant    string
	WebhookID string
	Status    ReplayStatus
	// Since and Until bound the creation of the events, inclusive and exclusive.
	Since, Until time.Time
	// Statuses narrows to events whose newest delivery to the webhook stands so; none: any that has
	// ended.
	Statuses StringList
	// EventTypes narrows to events of these types, by exact name; none: all.
	EventTypes StringList
	// IncludeUnmatched takes in events that never had a delivery to the webhook.
	IncludeUnmatched bool
	IdempotencyKey   *string
	Hash             string // of what an idempotency key stands for
	Total            int    // deliveries to make, as counted at first; once all are made, how many
	Made             int    // deliveries made so far
	// Done is how many of its deliveries have ended, Succeeded and Failed how.
	Done, Succeeded, Failed int
	// Stage and Cursor are where its walk stands: what comes next lies after the delivery or event
	// that Cursor names. They move in the transaction that makes the deliveries.
	Stage      string
	Cursor     string
	CreatedAt  time.Time
	FinishedAt *time.Time
}

// IsNode marks Replay as reachable through node(id:).
func (Replay) IsNode() {}

// Replay gives a replay by id, with its progress as of now.
func (t *Tenant) Replay(ctx context.Context, id string) (Replay, error) {
	r, err := one[Replay](ctx, t, PrefixReplay, id)
	if err != nil {
		return r, err
	}
	list := []Replay{r}
	err = t.store.progress(ctx, list)
	return list[0], err
}

// ReplaysByIDs gives replays by id, with their progress as of now. Unknown ids are absent.
func (t *Tenant) ReplaysByIDs(ctx context.Context, ids []string) (map[string]Replay, error) {
	found, err := byIDs(ctx, t, PrefixReplay, ids, replayID)
	if err != nil {
		return nil, err
	}
	list := make([]Replay, 0, len(found))
	for _, r := range found {
		list = append(list, r)
	}
	if err := t.store.progress(ctx, list); err != nil {
		return nil, err
	}
	for _, r := range list {
		found[r.ID] = r
	}
	return found, nil
}

// Replays lists replays, of one webhook or of all, newest first, with their progress as of now.
func (t *Tenant) Replays(ctx context.Context, webhookID *string, p Page) (Result[Replay], error) {
	parent := ""
	if webhookID != nil {
		parent = *webhookID
	}
	result, err := page(ctx, t.store, byID("replays", parent, PrefixReplay, replayID), p, func(db *gorm.DB) []*gorm.DB {
		return []*gorm.DB{equal(t.of(db, &Replay{}, nil), "webhook_id", webhookID)}
	})
	if err != nil {
		return result, err
	}
	return result, t.store.progress(ctx, result.Items)
}

func replayID(r *Replay) string { return r.ID }

// progress counts what became of the deliveries of replays that run; of the others it is stored.
func (s *Store) progress(ctx context.Context, replays []Replay) error {
	var running []string
	for _, r := range replays {
		if r.Status == ReplayRunning {
			running = append(running, r.ID)
		}
	}
	if len(running) == 0 {
		return nil
	}
	counts, err := find[replayCount](ctx, s, func(db *gorm.DB) *gorm.DB { return replayCounts(db, running) })
	if err != nil {
		return err
	}
	for i := range replays {
		if replays[i].Status == ReplayRunning {
			replays[i].count(counts)
		}
	}
	return nil
}

// replayCount is how many deliveries of a replay stand in a status.
type replayCount struct {
	ReplayID string
	Status   DeliveryStatus
	N        int
}

// In: replays. Out: their deliveries by status, of the index alone.
func replayCounts(db *gorm.DB, ids []string) *gorm.DB {
	return db.Table("deliveries").Select("replay_id, status, count(*) AS n").
		Where("replay_id IS NOT NULL AND replay_id IN ?", ids).Group("replay_id, status")
}

// count sets the figures of r from those of many replays.
func (r *Replay) count(counts []replayCount) {
	r.Done, r.Succeeded, r.Failed = 0, 0, 0
	for _, c := range counts {
		if c.ReplayID != r.ID || c.Status.Open() {
			continue
		}
		r.Done += c.N
		switch c.Status {
		case DeliverySucceeded:
			r.Succeeded += c.N
		case DeliveryFailed:
			r.Failed += c.N
		case DeliveryPending, DeliveryRetrying, DeliveryHeld, DeliveryCancelled, DeliverySkipped:
		}
	}
}
