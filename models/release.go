package models

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Release gives a claim back whose attempt was not started.
type Release struct {
	DeliveryID, Token string
	// After is how long the delivery waits from now on, by the database's clock. Zero: due at once.
	After time.Duration
	// Reason and Detail say why it waits; nil and "" where there is nothing to say.
	Reason *DeliveryStatusReason
	Detail string
}

// In: releases by column. Out: how the deliveries stand that were still this claim's. One that
// was held or ended meanwhile only loses its claim.
const pgRelease = `
WITH r AS (
UPDATE deliveries d SET claim_token = NULL, claimed_at = NULL, claimed_until = NULL,
  next_attempt_at = CASE WHEN d.status IN ('PENDING', 'RETRYING')
    THEN statement_timestamp() + u.after * interval '1 microsecond' ELSE d.next_attempt_at END,
  status_reason = CASE WHEN d.status IN ('PENDING', 'RETRYING') THEN u.reason ELSE d.status_reason END,
  status_detail = CASE WHEN d.status IN ('PENDING', 'RETRYING') THEN u.detail ELSE d.status_detail END
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) AS u (id, token, after, reason, detail)
WHERE d.id = u.id AND d.claim_token = u.token
RETURNING d.id, d.tenant, d.status, d.status_reason, d.status_detail, d.attempt_count, d.next_attempt_at, d.last_outcome,
  d.last_status, d.completed_at
), f AS (
  INSERT INTO feed (tenant, kind, items)
  SELECT tenant, 'd', ` + pgFeedStates + ` FROM r WHERE status IN ('PENDING', 'RETRYING') GROUP BY tenant
)
SELECT id, status, next_attempt_at, attempt_count FROM r`

const (
	liteRelease = `
UPDATE deliveries SET claim_token = NULL, claimed_at = NULL, claimed_until = NULL,
  next_attempt_at = CASE WHEN status IN ('PENDING', 'RETRYING') THEN ?3 ELSE next_attempt_at END,
  status_reason = CASE WHEN status IN ('PENDING', 'RETRYING') THEN ?4 ELSE status_reason END,
  status_detail = CASE WHEN status IN ('PENDING', 'RETRYING') THEN ?5 ELSE status_detail END
WHERE id = ?1 AND claim_token = ?2`
	liteReleased = `
SELECT id, tenant, status, status_reason, status_detail, attempt_count, next_attempt_at, last_outcome, last_status, completed_at
FROM deliveries WHERE id = ?`
)

// Release gives claims back. No attempt is counted. The answers are in the order of the releases;
// a claim that was lost meanwhile is not Applied and changes nothing.
func (s *Store) Release(ctx context.Context, releases []Release) ([]Recorded, error) {
	if len(releases) == 0 {
		return nil, nil
	}
	// In the order in which every transaction locks deliveries.
	sorted := slices.SortedFunc(slices.Values(releases), func(a, b Release) int {
		if a.DeliveryID < b.DeliveryID {
			return -1
		}
		return 1
	})
	release := s.pgRelease
	if s.dialect == DialectSQLite {
		release = s.liteRelease
	}
	var done map[string]Recorded
	err := s.retry(ctx, s.work, func(ctx context.Context) (err error) {
		done, err = release(ctx, sorted)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.feed.notify()
	recorded := make([]Recorded, len(releases))
	for i, r := range releases {
		recorded[i] = done[r.DeliveryID]
		recorded[i].DeliveryID = r.DeliveryID
	}
	return recorded, nil
}

func (r *Release) texts() (reason, detail *string) {
	if text := clean(r.Detail); text != "" {
		detail = &text
	}
	return (*string)(r.Reason), detail
}

func (s *Store) pgRelease(ctx context.Context, releases []Release) (map[string]Recorded, error) {
	n := len(releases)
	ids, tokens, afters := make([]string, n), make([]string, n), make([]int64, n)
	reasons, details := make([]*string, n), make([]*string, n)
	for i := range releases {
		r := &releases[i]
		ids[i], tokens[i], afters[i] = r.DeliveryID, r.Token, micros(max(0, r.After))
		reasons[i], details[i] = r.texts()
	}
	done := make(map[string]Recorded, n)
	// Not relaxed: what a reader of the feed has seen must not be forgotten by a crash of the server.
	err := s.pgDo(ctx, s.hot, func(p *pgSession) error {
		batch := &pgx.Batch{}
		batch.Queue(pgRelease, ids, tokens, afters, reasons, details).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				r := Recorded{Applied: true}
				if err := rows.Scan(&r.DeliveryID, &r.Status, &r.NextAttemptAt, &r.AttemptCount); err != nil {
					return err
				}
				done[r.DeliveryID] = r
			}
			return rows.Err()
		})
		return p.send(ctx, batch)
	})
	return done, err
}

func (s *Store) liteRelease(ctx context.Context, releases []Release) (map[string]Recorded, error) {
	done := make(map[string]Recorded, len(releases))
	err := s.sqliteTx(ctx, liteUsual, func(tx *liteTx) error {
		var feed feedRows
		for i := range releases {
			r := &releases[i]
			reason, detail := r.texts()
			changed, err := tx.exec(liteRelease, r.DeliveryID, r.Token, Instant(tx.now.Add(max(0, r.After))), reason, detail)
			if err != nil {
				return err
			}
			if changed == 0 {
				continue
			}
			var d Delivery
			err = tx.query(func(row *sql.Rows) error {
				return row.Scan(&d.ID, &d.Tenant, &d.Status, &d.StatusReason, &d.StatusDetail, &d.AttemptCount, &d.NextAttemptAt,
					&d.LastOutcome, &d.LastStatus, &d.CompletedAt)
			}, liteReleased, r.DeliveryID)
			if err != nil {
				return err
			}
			if d.Status == DeliveryPending || d.Status == DeliveryRetrying {
				feed.delivery(&d)
			}
			done[d.ID] = Recorded{
				DeliveryID: d.ID, Applied: true, Status: d.Status, NextAttemptAt: d.NextAttemptAt, AttemptCount: d.AttemptCount,
			}
		}
		return feed.liteWrite(tx)
	})
	return done, err
}
