package models

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Claim is the right to make one attempt, and all that the attempt needs. It ends when the
// attempt is recorded, when it is released, or when its lease runs out.
type Claim struct {
	DeliveryID      string
	Tenant          string
	EventID         string
	WebhookID       string
	WebhookRevision int64 // the webhook's current one, whose configuration the attempt uses
	EventType       string
	EventTimestamp  time.Time
	Data            string  // the event's text, or the shaped body
	Number          int     // of the attempt
	Trigger         Trigger // what the attempt is recorded as
	ScheduleStep    int
	Token           string
	ClaimedAt       time.Time // by the database's clock
	Succeeded       bool      // a 2xx was recorded earlier; this is a redelivery
	CreatedAt       time.Time
	// Waited is why the delivery waited until now: the reason of its last release, or SCHEDULED.
	// "" where it had none. Parked says that what it waited for is a slot or a circuit, see DetailShare.
	Waited DeliveryStatusReason
	Parked bool
}

// Reserved is what a worker has for a delivery that is about to be committed.
type Reserved struct {
	// Held: room for an attempt at once.
	Held bool
	// Wait is how long the delivery has to wait before it is worth a claim, for that reason; 0: not at all.
	Wait   time.Duration
	Reason DeliveryStatusReason
	Detail string
}

// Later is a delivery that is open and not due yet.
type Later struct {
	DeliveryID    string
	AttemptCount  int
	NextAttemptAt time.Time
}

// Claims is the answer to Claim.
type Claims struct {
	Claimed []Claim
	Later   []Later
}

// In: ids, token, lease in µs, the detail of what waits for a slot. Claims what is open, due and free, or has this very token, so that
// a call whose answer was lost can be repeated. The webhook is read under the lock of
// pgLockShared: one that was paused, disabled or deleted before is not claimed for. Only columns
// without an index are written (HOT).
//
// IS TRUE and the CTEs keep the planner from the indexes of what is due and of what a webhook has,
// in which a backlog would be walked: the rows are found by their ids, whatever the statistics
// say. The conditions stand twice because another claim may win between reading and writing.
const pgClaim = `
WITH d AS MATERIALIZED (
  SELECT id, webhook_id, event_id FROM deliveries
  WHERE id = ANY($1::text[]) AND (status IN ('PENDING', 'RETRYING') AND next_attempt_at <= statement_timestamp()) IS TRUE
    AND (claim_token IS NULL OR claim_token = $2)
), c AS MATERIALIZED (
  SELECT d.id, w.revision, e."timestamp", e.data
  FROM d JOIN webhooks w ON w.id = d.webhook_id JOIN events e ON e.id = d.event_id
  WHERE w.status = 'ACTIVE' AND w.deleted_at IS NULL AND e.erased_at IS NULL
)
UPDATE deliveries t
SET claim_token = $2, claimed_at = statement_timestamp(), claimed_until = statement_timestamp() + $3::bigint * interval '1 microsecond'
FROM c
WHERE t.id = c.id AND (t.status IN ('PENDING', 'RETRYING') AND t.next_attempt_at <= statement_timestamp()) IS TRUE
  AND (t.claim_token IS NULL OR t.claim_token = $2)
RETURNING t.id, t.tenant, t.event_id, t.webhook_id, c.revision, t.event_type, c."timestamp", coalesce(t.body, c.data),
  t.attempt_count + 1, t.attempt_trigger, t.schedule_step, t.claimed_at, t.succeeded_at IS NOT NULL, t.created_at,
  coalesce(t.status_reason, ''), coalesce(t.status_reason = 'CIRCUIT_OPEN' OR t.status_detail = $4, false)`

// Claim takes the deliveries among ids that are open, due, free and whose webhook is active, for
// lease, under token, which must be new. Those that are only not due yet come back as Later; the
// rest are nobody's business any more and are left out.
//
// Where one's lease ran out, its attempt is recorded as abandoned and it is claimed anew.
func (s *Store) Claim(ctx context.Context, ids []string, token string, lease time.Duration) (Claims, error) {
	// In one order for all: claims of the same ids wait for each other, never in a circle.
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	var claims Claims
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		claimed, err := s.claim(ctx, ids, token, lease)
		if err != nil {
			return err
		}
		claims = Claims{Claimed: claimed}
		if len(claimed) == len(ids) {
			return nil
		}
		claims.Later, err = s.notClaimed(ctx, ids, token, lease, &claims.Claimed)
		return err
	})
	if err != nil {
		return Claims{}, err
	}
	return claims, nil
}

func (s *Store) claim(ctx context.Context, ids []string, token string, lease time.Duration) ([]Claim, error) {
	if s.dialect == DialectSQLite {
		return s.liteClaim(ctx, ids, token, lease)
	}
	claims := make([]Claim, 0, len(ids))
	err := s.pgDo(ctx, s.relaxed, func(p *pgSession) error {
		batch := &pgx.Batch{}
		batch.Queue(pgLockShared, int64(configLock))
		batch.Queue(pgClaim, ids, token, micros(lease), DetailShare).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				c := Claim{Token: token}
				if err := rows.Scan(&c.DeliveryID, &c.Tenant, &c.EventID, &c.WebhookID, &c.WebhookRevision, &c.EventType,
					&c.EventTimestamp, &c.Data, &c.Number, &c.Trigger, &c.ScheduleStep, &c.ClaimedAt, &c.Succeeded, &c.CreatedAt, &c.Waited, &c.Parked); err != nil {
					return err
				}
				claims = append(claims, c)
			}
			return rows.Err()
		})
		return p.send(ctx, batch)
	})
	return claims, err
}

// notClaimed looks why some of ids were not claimed: it lists those that are not due yet, and
// claims those anew whose claim had run out.
func (s *Store) notClaimed(ctx context.Context, ids []string, token string, lease time.Duration, claimed *[]Claim) ([]Later, error) {
	have := make(map[string]bool, len(*claimed))
	for _, c := range *claimed {
		have[c.DeliveryID] = true
	}
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return have[id] })
	now, err := s.clock(s.reads.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	var open []Delivery
	err = s.reads.WithContext(ctx).Select("id", "attempt_count", "next_attempt_at", "claimed_until").
		Where("id IN ? AND status IN ('PENDING', 'RETRYING')", ids).Order("id").Find(&open).Error
	if err != nil {
		return nil, err
	}
	var later []Later
	var expired []string
	for _, d := range open {
		switch {
		case d.NextAttemptAt != nil && d.NextAttemptAt.After(now):
			later = append(later, Later{DeliveryID: d.ID, AttemptCount: d.AttemptCount, NextAttemptAt: *d.NextAttemptAt})
		case d.ClaimedUntil != nil && !d.ClaimedUntil.After(now):
			expired = append(expired, d.ID)
		}
	}
	if len(expired) == 0 {
		return later, nil
	}
	if _, err := s.expire(ctx, expired); err != nil {
		return nil, err
	}
	again, err := s.claim(ctx, expired, token, lease)
	*claimed = append(*claimed, again...)
	return later, err
}

const liteClaimable = `
SELECT d.id, d.tenant, d.event_id, d.webhook_id, w.revision, d.event_type, e."timestamp", coalesce(d.body, e.data),
  d.attempt_count + 1, d.attempt_trigger, d.schedule_step, d.succeeded_at IS NOT NULL, d.created_at,
  coalesce(d.status_reason, ''), coalesce(d.status_reason = 'CIRCUIT_OPEN' OR d.status_detail = ?4, false)
FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id JOIN events e ON e.id = d.event_id
WHERE d.id = ?1 AND d.status IN ('PENDING', 'RETRYING') AND d.next_attempt_at <= ?2
  AND (d.claim_token IS NULL OR d.claim_token = ?3)
  AND w.status = 'ACTIVE' AND w.deleted_at IS NULL AND e.erased_at IS NULL`

const liteClaimRow = `UPDATE deliveries SET claim_token = ?, claimed_at = ?, claimed_until = ? WHERE id = ?`

func (s *Store) liteClaim(ctx context.Context, ids []string, token string, lease time.Duration) ([]Claim, error) {
	var claims []Claim
	err := s.sqliteTx(ctx, liteRelaxed, func(tx *liteTx) error {
		claims = make([]Claim, 0, len(ids))
		for _, id := range ids {
			err := tx.query(func(row *sql.Rows) error {
				c := Claim{Token: token, ClaimedAt: tx.now}
				claims = append(claims, c)
				p := &claims[len(claims)-1]
				return row.Scan(&p.DeliveryID, &p.Tenant, &p.EventID, &p.WebhookID, &p.WebhookRevision, &p.EventType,
					&p.EventTimestamp, &p.Data, &p.Number, &p.Trigger, &p.ScheduleStep, &p.Succeeded, &p.CreatedAt, &p.Waited, &p.Parked)
			}, liteClaimable, id, tx.now, token, DetailShare)
			if err != nil {
				return err
			}
		}
		for _, c := range claims {
			if _, err := tx.exec(liteClaimRow, token, tx.now, tx.now.Add(lease), c.DeliveryID); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = s.onDisk() // not the claims: what they are of. It goes out now.
	}
	return claims, err
}

// ClaimKey names a claim.
type ClaimKey struct {
	DeliveryID, Token string
}

// ExtendClaims lets claims run for lease from now on. Those that have ended meanwhile are left
// out; one that ran out and was not yet abandoned goes on.
func (s *Store) ExtendClaims(ctx context.Context, keys []ClaimKey, lease time.Duration) error {
	if len(keys) == 0 {
		return nil
	}
	keys = slices.SortedFunc(slices.Values(keys), func(a, b ClaimKey) int {
		if a.DeliveryID < b.DeliveryID {
			return -1
		}
		return 1
	})
	ids, tokens := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		ids[i], tokens[i] = k.DeliveryID, k.Token
	}
	return s.retry(ctx, s.work, func(ctx context.Context) error {
		if s.dialect == DialectSQLite {
			return s.sqliteTx(ctx, liteRelaxed, func(tx *liteTx) error {
				for i := range ids {
					const extend = `UPDATE deliveries SET claimed_until = ? WHERE id = ? AND claim_token = ?`
					if _, err := tx.exec(extend, tx.now.Add(lease), ids[i], tokens[i]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return s.pgDo(ctx, s.relaxed, func(p *pgSession) error {
			batch := &pgx.Batch{}
			batch.Queue(`
UPDATE deliveries d SET claimed_until = statement_timestamp() + $3::bigint * interval '1 microsecond'
FROM unnest($1::text[], $2::text[]) AS u (id, token)
WHERE d.id = u.id AND d.claim_token = u.token`, ids, tokens, micros(lease))
			return p.send(ctx, batch)
		})
	})
}

// startWithin is how soon after its claim an attempt starts, or is released.
const startWithin = time.Second

// AwaitQuiet returns once no attempt of the webhook can start any more under a claim from before
// the call: when all claims younger than a second are recorded or released, which takes
// milliseconds as a rule, or else when that second is over. A change that keeps new claims out
// must have been committed before.
func (s *Store) AwaitQuiet(ctx context.Context, webhookID string) error {
	return s.awaitQuiet(ctx, "webhook_id = ? AND status <> 'SUCCEEDED'", webhookID)
}

// AwaitDeliveryQuiet is AwaitQuiet for one delivery that was just cancelled.
func (s *Store) AwaitDeliveryQuiet(ctx context.Context, deliveryID string) error {
	return s.awaitQuiet(ctx, "id = ?", deliveryID)
}

// AwaitEventQuiet is AwaitQuiet for the deliveries of an event that were just cancelled.
func (s *Store) AwaitEventQuiet(ctx context.Context, eventID string) error {
	return s.awaitQuiet(ctx, "event_id = ?", eventID)
}

func (s *Store) awaitQuiet(ctx context.Context, where, id string) error {
	until := time.Now().Add(startWithin)
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		busy, err := s.busy(bounded, where, id)
		switch {
		case err == nil && !busy:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		// Busy, or the database did not say: then the second has to pass. A webhook with a huge
		// backlog takes that long to look through.
		wait := 10 * time.Millisecond
		if err != nil {
			wait = time.Until(until)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if !time.Now().Before(until) {
			return nil
		}
	}
}

func (s *Store) busy(ctx context.Context, where, id string) (busy bool, err error) {
	db := s.reads.WithContext(ctx)
	now, err := s.clock(db)
	if err != nil {
		return false, err
	}
	err = db.Raw("SELECT EXISTS (SELECT 1 FROM deliveries WHERE "+where+" AND claim_token IS NOT NULL AND claimed_at > ?)",
		id, now.Add(-startWithin)).Row().Scan(&busy)
	return busy, err
}
