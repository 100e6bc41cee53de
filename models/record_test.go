package models_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// attempt is the record of an attempt under a claim.
func attempt(c models.Claim, outcome models.Outcome, disposition models.Disposition) models.AttemptRecord {
	started := models.Instant(time.Now())
	a := models.Attempt{
		DeliveryID: c.DeliveryID, Number: c.Number, Tenant: c.Tenant, Token: c.Token, Trigger: c.Trigger,
		StartedAt: started, EndedAt: new(started.Add(5 * time.Millisecond)), Outcome: &outcome,
		RequestURL: "https://crm.example/hook", RequestHeaders: models.Headers{{Name: "Webhook-Id", Value: c.EventID}},
		TotalMicros: new(int64(5000)), FirstByteMicros: new(int64(4000)),
	}
	switch outcome {
	case models.OutcomeSuccess:
		a.ResponseStatus, a.ResponseBody = new(204), new("")
		a.ResponseHeaders = models.Headers{}
	case models.OutcomeHTTPError:
		a.ResponseStatus, a.ResponseBody = new(500), new("no")
		a.ResponseHeaders = models.Headers{{Name: "Server", Value: "x"}}
	default:
		a.Error = new("connection refused")
	}
	return models.AttemptRecord{Attempt: a, WebhookID: c.WebhookID, EventType: c.EventType, Disposition: disposition}
}

func record(t testing.TB, store *models.Store, records ...models.AttemptRecord) []models.Recorded {
	t.Helper()
	recorded, err := store.Record(t.Context(), records)
	require.NoError(t, err)
	require.Len(t, recorded, len(records))
	return recorded
}

func TestRecord_RetriesThenSucceeds(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		id := due(t, store, w, 1)[0]
		c := claimOne(t, store, id, "t1")
		rec := attempt(c, models.OutcomeHTTPError, models.RetryAfter(time.Hour))
		r := record(t, store, rec)[0]
		require.True(t, r.Applied)
		require.Equal(t, models.DeliveryRetrying, r.Status)
		require.Equal(t, 1, r.AttemptCount)
		now, err := store.Now(t.Context())
		require.NoError(t, err)
		require.WithinDuration(t, now.Add(time.Hour), *r.NextAttemptAt, 10*time.Second)
		d := delivery(t, store, id)
		require.Equal(t, 1, d.ScheduleStep)
		require.Equal(t, models.OutcomeHTTPError, *d.LastOutcome)
		require.Equal(t, 500, *d.LastStatus)
		require.Nil(t, d.ClaimToken)
		require.Nil(t, d.ClaimedAt)
		require.Nil(t, d.ClaimedUntil)
		require.Nil(t, d.CompletedAt)
		require.Equal(t, []models.Attempt{rec.Attempt}, attempts(t, store, id), "what is read is what was recorded")

		require.Equal(t, r, record(t, store, rec)[0], "repeated: the same answer")
		require.Equal(t, d, delivery(t, store, id), "repeated: nothing changes")

		makeDue(t, store, id)
		c = claimOne(t, store, id, "t2")
		require.Equal(t, 2, c.Number)
		require.Equal(t, 1, c.ScheduleStep)
		r = record(t, store, attempt(c, models.OutcomeSuccess, models.Succeeded()))[0]
		require.Equal(t, models.DeliverySucceeded, r.Status)
		require.Nil(t, r.NextAttemptAt)
		d = delivery(t, store, id)
		require.Equal(t, 2, d.AttemptCount)
		require.Equal(t, 204, *d.LastStatus)
		require.Equal(t, d.SucceededAt, d.CompletedAt)
		require.NotNil(t, d.SucceededAt)
		require.Len(t, attempts(t, store, id), 2)
	})
}

func makeDue(t testing.TB, store *models.Store, id string) {
	t.Helper()
	require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET next_attempt_at = created_at WHERE id = ?", id))
}

// Every state that a delivery may be in when an attempt of its claim is recorded.
func TestRecord_OwnClaim(t *testing.T) {
	t.Parallel()
	retry := models.RetryAfter(time.Minute)
	failed := models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "All failed.")
	gone := models.Ended(models.DeliveryCancelled, models.ReasonAbortedByReceiver, "")
	tests := []struct {
		name        string
		set         string // what happened to the delivery while the attempt ran
		outcome     models.Outcome
		disposition models.Disposition
		want        models.DeliveryStatus
		reason      models.DeliveryStatusReason
		step        int
		due         bool
	}{
		{"pending success", "", models.OutcomeSuccess, models.Succeeded(), models.DeliverySucceeded, "", 0, false},
		{"pending retry", "", models.OutcomeTimeout, retry, models.DeliveryRetrying, "", 1, true},
		{"pending failed", "", models.OutcomeTimeout, failed, models.DeliveryFailed, models.ReasonRetriesExhausted, 0, false},
		{"pending aborted", "", models.OutcomeHTTPError, gone, models.DeliveryCancelled, models.ReasonAbortedByReceiver, 0, false},
		{"pending handed back", "", models.OutcomeAbandoned, models.HandedBack(), models.DeliveryRetrying, "", 0, true},
		{"retrying success", "status='RETRYING'", models.OutcomeSuccess, models.Succeeded(), models.DeliverySucceeded, "", 0, false},
		{"retrying retry", "status='RETRYING', schedule_step=2", models.OutcomeDNSError, retry, models.DeliveryRetrying, "", 3, true},
		{"held success", held, models.OutcomeSuccess, models.Succeeded(), models.DeliverySucceeded, "", 0, false},
		{"held retry", held, models.OutcomeTimeout, retry, models.DeliveryHeld, models.ReasonWebhookPaused, 1, false},
		{"held handed back", held, models.OutcomeAbandoned, models.HandedBack(), models.DeliveryHeld, models.ReasonWebhookPaused, 0, false},
		{"held failed", held, models.OutcomeTimeout, failed, models.DeliveryFailed, models.ReasonRetriesExhausted, 0, false},
		{"cancelled success", cancelled, models.OutcomeSuccess, models.Succeeded(), models.DeliverySucceeded, "", 0, false},
		{"cancelled retry", cancelled, models.OutcomeTimeout, retry, models.DeliveryCancelled, models.ReasonCancelledByUser, 1, false},
		{"cancelled failed", cancelled, models.OutcomeTimeout, failed, models.DeliveryCancelled, models.ReasonCancelledByUser, 0, false},
		{"cancelled handed back", cancelled, models.OutcomeAbandoned, models.HandedBack(), models.DeliveryCancelled, models.ReasonCancelledByUser, 0, false},
		{"manual retry", "attempt_trigger='MANUAL'", models.OutcomeTimeout, retry, models.DeliveryRetrying, "", 0, true},
		{"manual of succeeded fails", "attempt_trigger='MANUAL', succeeded_at=created_at", models.OutcomeTimeout, failed, models.DeliverySucceeded, "", 0, false},
		{"manual of succeeded to retry", "attempt_trigger='MANUAL', succeeded_at=created_at", models.OutcomeTimeout, retry, models.DeliverySucceeded, "", 0, false},
		{"manual of succeeded, held", held + ", attempt_trigger='MANUAL', succeeded_at=created_at", models.OutcomeTimeout, retry, models.DeliverySucceeded, "", 0, false},
		{"manual of succeeded succeeds", "attempt_trigger='MANUAL', succeeded_at=created_at", models.OutcomeSuccess, models.Succeeded(), models.DeliverySucceeded, "", 0, false},
		{"claim forgotten by a crash", "claim_token=NULL, claimed_at=NULL, claimed_until=NULL", models.OutcomeTimeout, retry, models.DeliveryRetrying, "", 1, true},
		{"success known from a late attempt", "status='SUCCEEDED', succeeded_at=created_at, completed_at=created_at, next_attempt_at=NULL", models.OutcomeTimeout, retry, models.DeliverySucceeded, "", 1, false},
	}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		for _, test := range tests {
			id := due(t, store, w, 1)[0]
			c := claimOne(t, store, id, "t1")
			if test.set != "" {
				require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET "+test.set+" WHERE id = ?", id))
			}
			before := delivery(t, store, id)
			r := record(t, store, attempt(c, test.outcome, test.disposition))[0]
			d := delivery(t, store, id)
			require.True(t, r.Applied, test.name)
			require.Equal(t, test.want, d.Status, test.name)
			require.Equal(t, test.want, r.Status, test.name)
			counts := 1
			if test.outcome == models.OutcomeAbandoned {
				counts = 0
			}
			require.Equal(t, counts, d.AttemptCount, test.name)
			require.Equal(t, test.step, d.ScheduleStep, test.name)
			require.Equal(t, test.due, d.NextAttemptAt != nil, test.name)
			require.Equal(t, d.NextAttemptAt, r.NextAttemptAt, test.name)
			if test.reason == "" {
				require.Nil(t, d.StatusReason, test.name)
			} else {
				require.Equal(t, test.reason, *d.StatusReason, test.name)
			}
			require.Nil(t, d.ClaimToken, test.name)
			require.Equal(t, !test.want.Open(), d.CompletedAt != nil, test.name)
			require.Equal(t, test.outcome, *d.LastOutcome, test.name)
			require.Equal(t, models.TriggerAutomatic, d.AttemptTrigger, test.name)
			if before.SucceededAt != nil {
				require.Equal(t, before.SucceededAt, d.SucceededAt, test.name)
			}
			require.Len(t, attempts(t, store, id), 1, test.name)
		}
	})
}

const (
	held      = "status='HELD', status_reason='WEBHOOK_PAUSED', next_attempt_at=NULL"
	cancelled = "status='CANCELLED', status_reason='CANCELLED_BY_USER', next_attempt_at=NULL, completed_at=created_at"
)

// Every state that a delivery may be in when a worker that lost its claim comes back.
func TestRecord_LostClaim(t *testing.T) {
	t.Parallel()
	type state struct {
		name string
		// reach brings a delivery whose first attempt was abandoned to the state.
		reach func(t *testing.T, store *models.Store, id string)
		// waits says that no other attempt was begun or asked for since: the late one decides after all.
		waits bool
		late  models.DeliveryStatus // after a late failure
	}
	exec := func(set string) func(*testing.T, *models.Store, string) {
		return func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET "+set+" WHERE id = ?", id))
		}
	}
	states := []state{
		{"due again", func(*testing.T, *models.Store, string) {}, true, models.DeliveryRetrying},
		{"abandoned again", func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			claimOne(t, store, id, "t2")
			abandon(t, store, id)
		}, true, models.DeliveryRetrying},
		{"claimed by another", func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			claimOne(t, store, id, "t2")
		}, false, models.DeliveryRetrying},
		{"failed by another", func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			record(t, store, attempt(claimOne(t, store, id, "t2"), models.OutcomeDNSError, models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "")))
		}, false, models.DeliveryFailed},
		{"succeeded by another", func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			record(t, store, attempt(claimOne(t, store, id, "t2"), models.OutcomeSuccess, models.Succeeded()))
		}, false, models.DeliverySucceeded},
		{"held", exec(held), true, models.DeliveryHeld},
		{"cancelled", exec(cancelled), true, models.DeliveryCancelled},
		{"cancelled and redelivered", func(t *testing.T, store *models.Store, id string) {
			t.Helper()
			exec(cancelled)(t, store, id)
			_, err := store.Redeliver(t.Context(), models.Reach{All: true}, id)
			require.NoError(t, err)
		}, false, models.DeliveryRetrying},
	}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		for _, s := range states {
			for _, outcome := range []models.Outcome{models.OutcomeSuccess, models.OutcomeTimeout} {
				name := fmt.Sprintf("%s, late %s", s.name, outcome)
				id := due(t, store, w, 1)[0]
				c := claimOne(t, store, id, "t1")
				abandon(t, store, id)
				s.reach(t, store, id)
				before, rows := delivery(t, store, id), len(attempts(t, store, id))
				want, disposition := s.late, models.RetryAfter(time.Hour)
				if outcome == models.OutcomeSuccess {
					want, disposition = models.DeliverySucceeded, models.Succeeded()
				}
				late := attempt(c, outcome, disposition)
				r := record(t, store, late)[0]
				require.Equal(t, s.waits, r.Applied, name)
				d := delivery(t, store, id)
				require.Equal(t, want, d.Status, name)
				require.Equal(t, want == models.DeliverySucceeded, d.SucceededAt != nil, name)
				count := before.AttemptCount
				if s.waits {
					count++
				}
				require.Equal(t, count, d.AttemptCount, name)
				require.Equal(t, before.ClaimToken, d.ClaimToken, name)
				row := late.Attempt
				if outcome != models.OutcomeSuccess && !s.waits {
					require.Equal(t, before, d, name)
					row.Outcome = new(models.OutcomeAbandoned)
				}
				made := attempts(t, store, id)
				require.Len(t, made, rows, name)
				require.Equal(t, row, made[0], name+": completes the abandoned row")

				require.Equal(t, d.Status, record(t, store, late)[0].Status, name+": repeated")
				require.Equal(t, d, delivery(t, store, id), name+": repeated")
				require.Equal(t, made, attempts(t, store, id), name+": repeated")
			}
		}
	})
}

// However many claims run out, and however late their outcomes come, what counts is what the schedule
// allows.
func TestRecord_LateFailuresAreNotMoreThanTheSchedule(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		id := due(t, store, w, 1)[0]
		var late []models.AttemptRecord
		for step := range 3 { // of a schedule with two
			lost := claimOne(t, store, id, fmt.Sprintf("lost %d", step))
			abandon(t, store, id)
			late = append(late, attempt(lost, models.OutcomeHTTPError, models.RetryAfter(0)))
			c := claimOne(t, store, id, fmt.Sprintf("made %d", step))
			require.Equal(t, step, c.ScheduleStep, "nothing was heard of it: it is made again")
			disposition := models.RetryAfter(0)
			if step == 2 {
				disposition = models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "")
			}
			record(t, store, attempt(c, models.OutcomeHTTPError, disposition))
		}
		before := delivery(t, store, id)
		record(t, store, late...)
		require.Equal(t, before, delivery(t, store, id))
		require.Equal(t, 3, before.AttemptCount)
		known, answered := 0, 0
		for _, a := range attempts(t, store, id) {
			if *a.Outcome != models.OutcomeAbandoned {
				known++
			}
			if a.ResponseStatus != nil {
				answered++
			}
		}
		require.Equal(t, 3, known)
		require.Equal(t, 6, answered, "what was heard late is shown")
	})
}

// abandon lets the claim of a delivery run out.
func abandon(t testing.TB, store *models.Store, id string) {
	t.Helper()
	require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claimed_until = claimed_at WHERE id = ?", id))
	expired, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 100)
	require.NoError(t, err)
	require.Len(t, expired, 1)
	require.Equal(t, id, expired[0].DeliveryID)
}

// A claim that a crash of the database forgot, and that another took since: the number is the
// other's, whoever records first.
func TestRecord_SameNumberTwice(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		for _, lateFirst := range []bool{true, false} {
			id := due(t, store, w, 1)[0]
			lost := claimOne(t, store, id, "t1")
			require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claim_token = NULL WHERE id = ?", id))
			owner := claimOne(t, store, id, "t2")
			require.Equal(t, lost.Number, owner.Number)
			late := attempt(lost, models.OutcomeTimeout, models.RetryAfter(time.Hour))
			own := attempt(owner, models.OutcomeHTTPError, models.RetryAfter(time.Minute))
			if lateFirst {
				require.False(t, record(t, store, late)[0].Applied)
				require.True(t, record(t, store, own)[0].Applied)
			} else {
				require.True(t, record(t, store, own)[0].Applied)
				require.False(t, record(t, store, late)[0].Applied)
			}
			made := attempts(t, store, id)
			require.Len(t, made, 2)
			require.Equal(t, "t2", made[0].Token)
			require.Equal(t, "t1", made[1].Token)
			require.Equal(t, 2, made[1].Number)
			require.Equal(t, models.OutcomeAbandoned, *made[1].Outcome)
			d := delivery(t, store, id)
			require.Equal(t, 1, d.AttemptCount)
			require.Equal(t, models.OutcomeHTTPError, *d.LastOutcome)

			makeDue(t, store, id)
			next := claimOne(t, store, id, "t3")
			require.Equal(t, 2, next.Number)
			require.True(t, record(t, store, attempt(next, models.OutcomeSuccess, models.Succeeded()))[0].Applied)
			made = attempts(t, store, id)
			require.Len(t, made, 3)
			require.Equal(t, 3, made[2].Number)
			require.Equal(t, "t3", made[2].Token)
		}
	})
}

func TestRecord_UnknownDelivery(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		c := claimOne(t, store, due(t, store, w, 1)[0], "t1")
		taken := c
		taken.DeliveryID = models.NewID(models.PrefixDelivery)
		r := record(t, store, attempt(taken, models.OutcomeSuccess, models.Succeeded()), attempt(c, models.OutcomeSuccess, models.Succeeded()))
		require.Equal(t, models.Recorded{DeliveryID: taken.DeliveryID}, r[0])
		require.True(t, r[1].Applied)
	})
}

// What a hostile receiver sends can always be stored, and spoils nobody else's record.
func TestRecord_UnstorableText(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		c := claimOne(t, store, due(t, store, w, 1)[0], "t1")
		r := attempt(c, models.OutcomeHTTPError, models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "a\x00b"))
		r.Attempt.ResponseBody = new("a\x00\xff\"\\b")
		r.Attempt.Error = new("\xc3\x28")
		r.Attempt.ResponseHeaders = models.Headers{{Name: "X", Value: "\x00\xff"}}
		record(t, store, r)
		made := attempts(t, store, c.DeliveryID)[0]
		require.Equal(t, "a\uFFFD\uFFFD\"\\b", *made.ResponseBody)
		require.Equal(t, "\uFFFD(", *made.Error)
		require.Equal(t, "a\uFFFDb", *delivery(t, store, c.DeliveryID).StatusDetail)
	})
}

func TestRecord_GoneDisablesWebhook(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 3)
		c := claimOne(t, store, ids[0], "t1")
		r := attempt(c, models.OutcomeHTTPError, models.Ended(models.DeliveryCancelled, models.ReasonGone, "Gone."))
		r.Effect = models.EffectGone
		record(t, store, r)
		now, err := store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, models.WebhookDisabled, now.Status)
		require.Equal(t, models.ReasonReceiverGone, *now.StatusReason)
		require.Equal(t, w.Revision+1, now.Revision)
		require.Equal(t, w.Version, now.Version)
		for _, id := range ids {
			d := delivery(t, store, id)
			require.Equal(t, models.DeliveryCancelled, d.Status)
			require.Equal(t, models.ReasonGone, *d.StatusReason)
		}
		record(t, store, r) // repeated
		again, err := store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, now, again)
	})
}

func TestRecord_Health(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		run := func(outcomes ...models.Outcome) models.WebhookHealth {
			t.Helper()
			var records []models.AttemptRecord
			for i, id := range due(t, store, w, len(outcomes)) {
				disposition := models.RetryAfter(time.Hour)
				if outcomes[i] == models.OutcomeSuccess {
					disposition = models.Succeeded()
				}
				records = append(records, attempt(claimOne(t, store, id, "t"), outcomes[i], disposition))
			}
			record(t, store, records...)
			record(t, store, records...) // repeated: counts nothing
			h, err := store.Tenant(models.Reach{All: true}).Health(t.Context(), []string{w.ID})
			require.NoError(t, err)
			return h[w.ID]
		}
		fail, ok := models.OutcomeTimeout, models.OutcomeSuccess
		h := run(fail, fail)
		require.Equal(t, 2, h.ConsecutiveFailures)
		require.NotNil(t, h.FailingSince)
		require.Nil(t, h.LastSuccessAt)
		since := *h.FailingSince

		failing, err := store.FailingWebhooks(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		require.Empty(t, failing)
		failing, err = store.FailingWebhooks(t.Context(), 0, 10)
		require.NoError(t, err)
		require.Len(t, failing, 1)
		require.Equal(t, w.ID, failing[0].ID)
		require.Equal(t, h, failing[0].Health)
		for i, want := range []bool{true, false} {
			marked, err := store.MarkNotified(t.Context(), w.ID, since)
			require.NoError(t, err)
			require.Equal(t, want, marked, i)
		}

		h = run(fail, models.OutcomeAbandoned)
		require.Equal(t, 3, h.ConsecutiveFailures, "what we cut off ourselves is not the receiver's failure")
		require.Equal(t, since, *h.FailingSince)
		require.NotNil(t, h.NotifiedAt)
		h = run(fail, ok, fail)
		require.Equal(t, 1, h.ConsecutiveFailures)
		require.True(t, h.FailingSince.After(since))
		require.NotNil(t, h.LastSuccessAt)
		require.Nil(t, h.NotifiedAt)
		h = run(ok)
		require.Zero(t, h.ConsecutiveFailures)
		require.Nil(t, h.FailingSince)
		require.NotNil(t, h.LastFailureAt)
	})
}

func TestRecord_StatisticsAddUp(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 10)
		test := eventTo(w)
		test.Deliveries[0].Trigger = models.TriggerTest
		ids = append(ids, commit(t, store, test)[0].Deliveries[0].ID)
		claims, err := store.Claim(t.Context(), ids, "t1", lease)
		require.NoError(t, err)
		var records []models.AttemptRecord
		for i, c := range claims.Claimed {
			switch {
			case c.Trigger == models.TriggerTest, i < 6:
				records = append(records, attempt(c, models.OutcomeSuccess, models.Succeeded()))
			case i < 8:
				records = append(records, attempt(c, models.OutcomeTimeout, models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "")))
			default:
				records = append(records, attempt(c, models.OutcomeTimeout, models.RetryAfter(time.Hour)))
			}
		}
		record(t, store, records...)
		record(t, store, records...) // repeated: counts nothing
		sum := func(where string) int {
			n, err := store.Count(t.Context(), "SELECT coalesce(sum(n), 0) FROM delivery_minutes WHERE "+where)
			require.NoError(t, err)
			return n
		}
		succeeded, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE status = 'SUCCEEDED' AND \"trigger\" = 'AUTOMATIC'")
		require.NoError(t, err)
		failed, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE status = 'FAILED'")
		require.NoError(t, err)
		require.Equal(t, 10, sum("measure = -1"))
		require.Equal(t, succeeded, sum("measure = -2"))
		require.Equal(t, failed, sum("measure = -3"))
		require.Equal(t, 10, sum("measure = -4"))
		require.Equal(t, 10, sum("measure >= 0"))
		require.Equal(t, 10, sum(fmt.Sprintf("measure = %d", models.LatencyBucket(5*time.Millisecond))))

		// An abandoned attempt counts once, also when its true outcome comes.
		id := due(t, store, w, 1)[0]
		c := claimOne(t, store, id, "t2")
		abandon(t, store, id)
		require.Equal(t, 11, sum("measure = -4"))
		record(t, store, attempt(c, models.OutcomeSuccess, models.Succeeded()))
		require.Equal(t, 11, sum("measure = -4"))
		require.Equal(t, succeeded+1, sum("measure = -2"))
	})
}

func TestLatencyBucket(t *testing.T) {
	t.Parallel()
	previous := -1
	for d := 10 * time.Microsecond; d < 60*time.Second; d += d/50 + 1 {
		b := models.LatencyBucket(d)
		require.GreaterOrEqual(t, b, previous)
		previous = b
		low, high := models.LatencyBounds(b)
		// Bounds are cut to whole microseconds.
		require.GreaterOrEqual(t, d+time.Microsecond, low)
		require.LessOrEqual(t, d, high+time.Microsecond)
		if b > 0 {
			require.Less(t, float64(high)/float64(low), 1.22)
		}
	}
	require.Equal(t, 0, models.LatencyBucket(0))
	require.Equal(t, models.LatencyBucket(time.Hour), models.LatencyBucket(24*time.Hour))
}
