package models

import (
	"context"
	"database/sql"
	"time"
)

const (
	liteReadDelivery = `
SELECT id, tenant, webhook_id, event_type, status, status_reason, status_detail, "trigger", attempt_count, schedule_step,
  attempt_trigger, next_attempt_at, claim_token, last_outcome, last_status, succeeded_at, completed_at,
  EXISTS (SELECT 1 FROM events WHERE events.id = deliveries.event_id AND erased_at IS NOT NULL)
FROM deliveries WHERE id = ?`
	liteMadeAttempts = `
SELECT number, token, coalesce(outcome, ''), coalesce(response_status, total_micros) IS NOT NULL OR error IS NOT NULL
FROM attempts WHERE delivery_id = ? AND number >= ?`
	// A worker that was taken for dead replaces the row that says so.
	liteWriteAttempt = `
INSERT OR REPLACE INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, ended_at, outcome, error, remote_address,
  request_url, request_headers, response_status, response_headers, response_body, response_truncated,
  total_micros, dns_micros, connect_micros, tls_micros, first_byte_micros)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	liteMoveDelivery = `
UPDATE deliveries SET status = ?2, status_reason = ?3, status_detail = ?4, attempt_count = ?5, schedule_step = ?6,
  attempt_trigger = ?7, next_attempt_at = ?8, last_outcome = ?9, last_status = ?10, succeeded_at = ?11, completed_at = ?12,
  claim_token = CASE WHEN ?13 THEN NULL ELSE claim_token END,
  claimed_at = CASE WHEN ?13 THEN NULL ELSE claimed_at END,
  claimed_until = CASE WHEN ?13 THEN NULL ELSE claimed_until END
WHERE id = ?1`
	liteMoveHealth = `
INSERT INTO webhook_health AS h (webhook_id, consecutive_failures, failing_since, last_success_at, last_failure_at)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (webhook_id) DO UPDATE SET
  consecutive_failures = excluded.consecutive_failures + CASE WHEN excluded.last_success_at IS NULL THEN h.consecutive_failures ELSE 0 END,
  failing_since = coalesce(CASE WHEN excluded.last_success_at IS NULL THEN h.failing_since END, excluded.failing_since),
  notified_at = CASE WHEN excluded.last_success_at IS NULL THEN h.notified_at END,
  last_success_at = coalesce(excluded.last_success_at, h.last_success_at),
  last_failure_at = coalesce(excluded.last_failure_at, h.last_failure_at)`
)

func (s *Store) liteRecord(ctx context.Context, records []AttemptRecord) ([]Recorded, error) {
	var recorded []Recorded
	err := s.sqliteTx(ctx, liteUsual, func(tx *liteTx) error {
		l, err := liteLock(tx, records)
		if err != nil {
			return err
		}
		var rows []written
		recorded, rows = l.recordAll(records)
		for _, row := range rows {
			if err := liteWrite(tx, row.Attempt); err != nil {
				return err
			}
		}
		return s.liteMove(tx, l)
	})
	return recorded, err
}

func liteLock(tx *liteTx, records []AttemptRecord) (*ledger, error) {
	ids, numbers := toLock(records)
	deliveries := make([]*entry, 0, len(ids))
	for i, id := range ids {
		var d *entry
		err := tx.query(func(row *sql.Rows) error {
			d = &entry{}
			return row.Scan(&d.ID, &d.Tenant, &d.WebhookID, &d.EventType, &d.Status, &d.StatusReason, &d.StatusDetail, &d.Trigger,
				&d.AttemptCount, &d.ScheduleStep, &d.AttemptTrigger, &d.NextAttemptAt, &d.ClaimToken, &d.LastOutcome, &d.LastStatus,
				&d.SucceededAt, &d.CompletedAt, &d.erased)
		}, liteReadDelivery, id)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		err = tx.query(func(row *sql.Rows) error {
			var m madeAttempt
			if err := row.Scan(&m.number, &m.token, &m.outcome, &m.told); err != nil {
				return err
			}
			d.attempts = append(d.attempts, m)
			return nil
		}, liteMadeAttempts, id, numbers[i])
		if err != nil {
			return nil, err
		}
		deliveries = append(deliveries, d)
	}
	return newLedger(tx.now, deliveries), nil
}

func liteWrite(tx *liteTx, a *Attempt) error {
	sent, answered, err := headerTexts(a)
	if err != nil {
		return err
	}
	_, err = tx.exec(liteWriteAttempt, a.DeliveryID, a.Number, a.Tenant, a.Token, a.Trigger, a.StartedAt, a.EndedAt, a.Outcome, a.Error,
		a.RemoteAddress, a.RequestURL, sent, a.ResponseStatus, answered, a.ResponseBody, a.ResponseTruncated,
		a.TotalMicros, a.DNSMicros, a.ConnectMicros, a.TLSMicros, a.FirstByteMicros)
	return err
}

// liteMove writes what a ledger decided, but for the attempts' rows.
func (s *Store) liteMove(tx *liteTx, l *ledger) error {
	changed := l.sortedChanges()
	if err := feedOf(changed).liteWrite(tx); err != nil {
		return err
	}
	for _, d := range changed {
		_, err := tx.exec(liteMoveDelivery, d.ID, d.Status, d.StatusReason, d.StatusDetail, d.AttemptCount, d.ScheduleStep,
			d.AttemptTrigger, d.NextAttemptAt, d.LastOutcome, d.LastStatus, d.SucceededAt, d.CompletedAt, d.free)
		if err != nil {
			return err
		}
	}
	if err := s.liteAddMinutes(tx, l.counts); err != nil {
		return err
	}
	for _, id := range l.sortedHealth() {
		h := l.health[id]
		var success, failure *time.Time
		if h.succeeded {
			success = &l.now
		}
		if h.failures > 0 {
			failure = &l.now
		}
		if _, err := tx.exec(liteMoveHealth, id, h.failures, failure, success, failure); err != nil {
			return err
		}
	}
	return nil
}
