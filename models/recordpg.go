package models

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// In: ids. Out: the deliveries, locked in the order of their ids, as every transaction does that
// takes several.
const pgLockDeliveries = `
SELECT id, tenant, webhook_id, event_type, status, status_reason, status_detail, "trigger", attempt_count, schedule_step,
  attempt_trigger, next_attempt_at, claim_token, last_outcome, last_status, succeeded_at, completed_at
FROM deliveries WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE`

// In: ids, the lowest number of interest each. Out: the attempts from there on. Nobody adds one
// without the delivery's lock.
const pgMadeAttempts = `
SELECT a.delivery_id, a.number, a.token, coalesce(a.outcome, ''), coalesce(a.response_status, a.total_micros) IS NOT NULL OR a.error IS NOT NULL
FROM unnest($1::text[], $2::integer[]) AS u (id, number)
JOIN attempts a ON a.delivery_id = u.id AND a.number >= u.number`

// In: ids, locked before. Out: those whose event was erased. It is a statement of its own, after the
// lock: whoever erases holds the lock too, so either the attempt is seen there or the erasure here.
const pgErasedDeliveries = `
SELECT d.id FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.id = ANY($1::text[]) AND e.erased_at IS NOT NULL`

const pgInsertAttempts = `
INSERT INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, ended_at, outcome, error, remote_address,
  request_url, request_headers, response_status, response_headers, response_body, response_truncated,
  total_micros, dns_micros, connect_micros, tls_micros, first_byte_micros)
SELECT * FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[],
  $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::text[], $15::text[], $16::boolean[],
  $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[])`

// A worker that was taken for dead tells after all what came of its attempt.
const pgTakeOver = `
ON CONFLICT (delivery_id, number) DO UPDATE SET "trigger" = excluded."trigger", started_at = excluded.started_at,
  ended_at = excluded.ended_at, outcome = excluded.outcome, error = excluded.error, remote_address = excluded.remote_address,
  request_url = excluded.request_url, request_headers = excluded.request_headers, response_status = excluded.response_status,
  response_headers = excluded.response_headers, response_body = excluded.response_body,
  response_truncated = excluded.response_truncated, total_micros = excluded.total_micros, dns_micros = excluded.dns_micros,
  connect_micros = excluded.connect_micros, tls_micros = excluded.tls_micros, first_byte_micros = excluded.first_byte_micros`

// In: the new states by column. The rows are locked, so nothing has changed since they were read.
const pgMoveDeliveries = `
UPDATE deliveries d SET status = u.status, status_reason = u.reason, status_detail = u.detail, attempt_count = u.attempts,
  schedule_step = u.step, attempt_trigger = u.next_trigger, next_attempt_at = u.next, last_outcome = u.outcome,
  last_status = u.response, succeeded_at = u.succeeded, completed_at = u.completed,
  claim_token = CASE WHEN u.free THEN NULL ELSE d.claim_token END,
  claimed_at = CASE WHEN u.free THEN NULL ELSE d.claimed_at END,
  claimed_until = CASE WHEN u.free THEN NULL ELSE d.claimed_until END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::text[], $8::timestamptz[],
  $9::text[], $10::integer[], $11::timestamptz[], $12::timestamptz[], $13::boolean[])
  AS u (id, status, reason, detail, attempts, step, next_trigger, next, outcome, response, succeeded, completed, free)
WHERE d.id = u.id`

// In: webhooks sorted, whether each succeeded, its failures after that, now. A success ends the
// run of failures, and with it what was notified about it.
const pgMoveHealth = `
INSERT INTO webhook_health AS h (webhook_id, consecutive_failures, failing_since, last_success_at, last_failure_at)
SELECT id, failures, CASE WHEN failures > 0 THEN $4::timestamptz END, CASE WHEN succeeded THEN $4::timestamptz END,
  CASE WHEN failures > 0 THEN $4::timestamptz END
FROM unnest($1::text[], $2::boolean[], $3::integer[]) AS u (id, succeeded, failures)
ON CONFLICT (webhook_id) DO UPDATE SET
  consecutive_failures = excluded.consecutive_failures + CASE WHEN excluded.last_success_at IS NULL THEN h.consecutive_failures ELSE 0 END,
  failing_since = coalesce(CASE WHEN excluded.last_success_at IS NULL THEN h.failing_since END, excluded.failing_since),
  notified_at = CASE WHEN excluded.last_success_at IS NULL THEN h.notified_at END,
  last_success_at = coalesce(excluded.last_success_at, h.last_success_at),
  last_failure_at = coalesce(excluded.last_failure_at, h.last_failure_at)`

// pgRecord takes two round trips, however many records there are.
func (s *Store) pgRecord(ctx context.Context, records []AttemptRecord) ([]Recorded, error) {
	var recorded []Recorded
	err := s.pgDo(ctx, s.hot, func(p *pgSession) error {
		l, err := pgLock(ctx, p, records)
		if err != nil {
			return err
		}
		var rows []written
		recorded, rows = l.recordAll(records)
		if len(rows) == 0 {
			return nil // all of it was recorded before: rolled back
		}
		batch := &pgx.Batch{}
		if err := pgQueueAttempts(batch, rows); err != nil {
			return err
		}
		changed := l.sortedChanges()
		pgQueueMoves(batch, changed)
		feedOf(changed).pgQueue(batch)
		s.pgQueueMinutes(batch, l.counts, l.now)
		pgQueueHealth(batch, l)
		batch.Queue("COMMIT")
		return p.commit(ctx, batch)
	})
	return recorded, err
}

// pgLock begins the transaction and reads what the records are about.
func pgLock(ctx context.Context, p *pgSession, records []AttemptRecord) (*ledger, error) {
	ids, numbers := toLock(records)
	deliveries := make([]*entry, 0, len(ids))
	byID := make(map[string]*entry, len(ids))
	var now time.Time
	batch := &pgx.Batch{}
	batch.Queue("BEGIN")
	batch.Queue(pgLockDeliveries, ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			d := &entry{}
			if err := rows.Scan(&d.ID, &d.Tenant, &d.WebhookID, &d.EventType, &d.Status, &d.StatusReason, &d.StatusDetail, &d.Trigger,
				&d.AttemptCount, &d.ScheduleStep, &d.AttemptTrigger, &d.NextAttemptAt, &d.ClaimToken, &d.LastOutcome, &d.LastStatus,
				&d.SucceededAt, &d.CompletedAt); err != nil {
				return err
			}
			deliveries = append(deliveries, d)
			byID[d.ID] = d
		}
		return rows.Err()
	})
	batch.Queue(pgMadeAttempts, ids, numbers).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id string
			var m madeAttempt
			if err := rows.Scan(&id, &m.number, &m.token, &m.outcome, &m.told); err != nil {
				return err
			}
			if d := byID[id]; d != nil {
				d.attempts = append(d.attempts, m)
			}
		}
		return rows.Err()
	})
	batch.Queue(pgErasedDeliveries, ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			if d := byID[id]; d != nil {
				d.erased = true
			}
		}
		return rows.Err()
	})
	batch.Queue("SELECT clock_timestamp()").QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	if err := p.send(ctx, batch); err != nil {
		return nil, err
	}
	return newLedger(Instant(now), deliveries), nil
}

func pgQueueAttempts(batch *pgx.Batch, rows []written) error {
	for _, takeover := range []bool{false, true} {
		var c struct {
			delivery, tenant, token, trigger, url, headers []string
			number                                         []int
			started                                        []time.Time
			ended                                          []*time.Time
			outcome, failure, remote, answered, body       []*string
			status                                         []*int
			truncated                                      []bool
			total, dns, connect, tls, firstByte            []*int64
		}
		for i := range rows {
			if rows[i].takeover != takeover {
				continue
			}
			a := rows[i].Attempt
			sent, answered, err := headerTexts(a)
			if err != nil {
				return err
			}
			c.delivery, c.number, c.tenant = append(c.delivery, a.DeliveryID), append(c.number, a.Number), append(c.tenant, a.Tenant)
			c.token, c.trigger = append(c.token, a.Token), append(c.trigger, string(a.Trigger))
			c.started, c.ended = append(c.started, a.StartedAt), append(c.ended, a.EndedAt)
			c.outcome, c.failure = append(c.outcome, (*string)(a.Outcome)), append(c.failure, a.Error)
			c.remote, c.url = append(c.remote, a.RemoteAddress), append(c.url, a.RequestURL)
			c.headers, c.answered = append(c.headers, sent), append(c.answered, answered)
			c.status, c.body = append(c.status, a.ResponseStatus), append(c.body, a.ResponseBody)
			c.truncated = append(c.truncated, a.ResponseTruncated)
			c.total, c.dns, c.connect = append(c.total, a.TotalMicros), append(c.dns, a.DNSMicros), append(c.connect, a.ConnectMicros)
			c.tls, c.firstByte = append(c.tls, a.TLSMicros), append(c.firstByte, a.FirstByteMicros)
		}
		if len(c.delivery) == 0 {
			continue
		}
		text := pgInsertAttempts
		if takeover {
			text += pgTakeOver
		}
		batch.Queue(text, c.delivery, c.number, c.tenant, c.token, c.trigger, c.started, c.ended, c.outcome, c.failure, c.remote, c.url,
			c.headers, c.status, c.answered, c.body, c.truncated, c.total, c.dns, c.connect, c.tls, c.firstByte)
	}
	return nil
}

// headerTexts is an attempt's headers as they are stored; nil where there was no response.
func headerTexts(a *Attempt) (sent string, answered *string, err error) {
	text := func(h Headers) (string, error) {
		v, err := h.Value()
		if err != nil {
			return "", err
		}
		s, _ := v.(string)
		return s, nil
	}
	if a.RequestHeaders == nil {
		a.RequestHeaders = Headers{}
	}
	if sent, err = text(a.RequestHeaders); err != nil || a.ResponseHeaders == nil {
		return sent, nil, err
	}
	back, err := text(a.ResponseHeaders)
	return sent, &back, err
}

func pgQueueMoves(batch *pgx.Batch, changed []*entry) {
	if len(changed) == 0 {
		return
	}
	var c struct {
		id, status, trigger        []string
		reason, detail, outcome    []*string
		attempts, step             []int
		response                   []*int
		next, succeeded, completed []*time.Time
		free                       []bool
	}
	for _, d := range changed {
		c.id, c.status, c.trigger = append(c.id, d.ID), append(c.status, string(d.Status)), append(c.trigger, string(d.AttemptTrigger))
		c.reason, c.detail = append(c.reason, (*string)(d.StatusReason)), append(c.detail, d.StatusDetail)
		c.outcome, c.response = append(c.outcome, (*string)(d.LastOutcome)), append(c.response, d.LastStatus)
		c.attempts, c.step = append(c.attempts, d.AttemptCount), append(c.step, d.ScheduleStep)
		c.next, c.succeeded = append(c.next, d.NextAttemptAt), append(c.succeeded, d.SucceededAt)
		c.completed, c.free = append(c.completed, d.CompletedAt), append(c.free, d.free)
	}
	batch.Queue(pgMoveDeliveries, c.id, c.status, c.reason, c.detail, c.attempts, c.step, c.trigger, c.next, c.outcome, c.response,
		c.succeeded, c.completed, c.free)
}

func pgQueueHealth(batch *pgx.Batch, l *ledger) {
	ids := l.sortedHealth()
	if len(ids) == 0 {
		return
	}
	succeeded, failures := make([]bool, len(ids)), make([]int, len(ids))
	for i, id := range ids {
		succeeded[i], failures[i] = l.health[id].succeeded, l.health[id].failures
	}
	batch.Queue(pgMoveHealth, ids, succeeded, failures, l.now)
}
