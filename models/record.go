package models

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Disposition is what an attempt's outcome means for its delivery: Succeeded, RetryAfter, Ended or
// HandedBack. The zero one is Succeeded.
type Disposition struct {
	kind   dispositionKind
	after  time.Duration
	status DeliveryStatus
	reason DeliveryStatusReason
	detail string
}

type dispositionKind int

const (
	disposeSucceeded dispositionKind = iota
	disposeRetry
	disposeEnded
	disposeHandedBack
)

// Succeeded is the disposition of a 2xx. It always wins: no pause, cancellation or lost claim
// denies a success that happened.
func Succeeded() Disposition { return Disposition{kind: disposeSucceeded} }

// RetryAfter makes the delivery due again after d, by the database's clock, and uses up a step of
// the retry schedule, unless the attempt was a manual one.
func RetryAfter(d time.Duration) Disposition {
	return Disposition{kind: disposeRetry, after: max(0, d)}
}

// Ended ends the delivery as FAILED or CANCELLED. reason and detail may be empty.
func Ended(status DeliveryStatus, reason DeliveryStatusReason, detail string) Disposition {
	return Disposition{kind: disposeEnded, status: status, reason: reason, detail: detail}
}

// HandedBack makes the delivery due at once, after an attempt that its worker cut off. It does not count.
func HandedBack() Disposition { return Disposition{kind: disposeHandedBack} }

// WebhookEffect is what an attempt means for its webhook.
type WebhookEffect int

// What an attempt may mean for its webhook: nothing, or that the receiver is gone, which disables
// it and cancels its open deliveries.
const (
	EffectNone WebhookEffect = iota
	EffectGone
)

// AttemptRecord is an attempt that was made, under the claim that Attempt.Token and Attempt.Number
// name. Attempt.Outcome must be set. An empty Trigger is the one that the delivery waited for.
type AttemptRecord struct {
	Attempt     Attempt
	WebhookID   string
	EventType   string
	Disposition Disposition
	Effect      WebhookEffect
}

// Recorded is how a delivery stands after a record or a release.
type Recorded struct {
	DeliveryID string
	// Applied says that the delivery was still this claim's to decide. Where it is false the
	// attempt is kept as history, and a success counts all the same.
	Applied       bool
	Status        DeliveryStatus // "" where the delivery no longer exists
	NextAttemptAt *time.Time
	AttemptCount  int
}

// Record writes down attempts, moves their deliveries, and adds up statistics and health, all in
// one transaction. The answers are in the order of the records. It may be repeated: what was
// recorded already changes nothing and is answered with how the delivery stands.
//
// A record is fenced by its claim. Where the claim ran out and the delivery still waits, the attempt
// takes over its ABANDONED row and decides after all. Where another claim came after it, it completes its
// ABANDONED row, or becomes one more such row of history, and the delivery is left alone, unless the
// attempt succeeded.
func (s *Store) Record(ctx context.Context, records []AttemptRecord) ([]Recorded, error) {
	for i := range records {
		if err := records[i].prepare(); err != nil {
			return nil, err
		}
	}
	if len(records) == 0 {
		return nil, nil
	}
	apply := s.pgRecord
	if s.dialect == DialectSQLite {
		apply = s.liteRecord
	}
	var recorded []Recorded
	err := s.retry(ctx, s.work, func(ctx context.Context) (err error) {
		recorded, err = apply(ctx, records)
		if commit, ok := errors.AsType[*commitError](err); ok {
			// Repeating is safe, so there is no need to know what became of the commit.
			return errors.Join(errUndone, commit.err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.feed.notify()
	return recorded, s.disableGone(ctx, records, recorded)
}

// prepare brings what came from a receiver into a form that both databases can store.
func (r *AttemptRecord) prepare() error {
	a := &r.Attempt
	if a.Outcome == nil {
		return fmt.Errorf("record attempt %d of %s: no outcome", a.Number, a.DeliveryID)
	}
	a.StartedAt, a.EndedAt = Instant(a.StartedAt), instantOf(a.EndedAt)
	a.RequestURL = clean(a.RequestURL)
	for _, text := range []**string{&a.Error, &a.RemoteAddress, &a.ResponseBody} {
		if *text != nil && !storable(**text) {
			cleaned := clean(**text)
			*text = &cleaned
		}
	}
	return nil
}

// clean replaces what no text column can hold.
func clean(s string) string {
	if storable(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// disableGone disables the webhooks whose receivers said that they are gone. Their open
// deliveries are cancelled here as far as a moment suffices; the sweep does the rest.
func (s *Store) disableGone(ctx context.Context, records []AttemptRecord, recorded []Recorded) error {
	done := map[string]bool{}
	for i, r := range records {
		if r.Effect != EffectGone || !recorded[i].Applied || done[r.WebhookID] {
			continue
		}
		done[r.WebhookID] = true
		bounded, cancel := context.WithTimeout(ctx, s.timeout)
		_, err := s.SetWebhookStatus(bounded, Reach{All: true}, r.WebhookID, WebhookDisabled, ReasonReceiverGone, nil)
		cancel()
		if err == nil || errors.Is(err, ErrNotFound) {
			continue
		}
		w, read := s.WebhookByID(ctx, r.WebhookID)
		if read != nil || w.Status != WebhookDisabled {
			return fmt.Errorf("disable webhook: %w", err)
		}
		s.log.WarnContext(ctx, "open deliveries left to the sweep", slog.String("webhook", r.WebhookID), slog.Any("error", err))
	}
	return nil
}
