package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// Each process has a clock of its own, and none of them is right. What is due, and what time the
// history and the signatures tell, is the database's to say.
func TestFault31_WrongClocks(t *testing.T) {
	t.Parallel()
	hour := func(n int) func(t *testing.T) *wrongClock {
		return func(t *testing.T) *wrongClock {
			t.Helper()
			return newWrongClock(t, time.Duration(n)*time.Hour, 0)
		}
	}
	jitter := func(t *testing.T) *wrongClock {
		t.Helper()
		return newWrongClock(t, 0, 500*time.Millisecond)
	}
	for name, clocks := range map[string][]func(t *testing.T) *wrongClock{ // two APIs, two workers
		"an hour and a day": {hour(1), hour(-1), hour(24), hour(-1)},
		"jitter":            {jitter, jitter, jitter, jitter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plan{stack: apptest.Production, apis: 2, workers: 2}
			for _, clock := range clocks {
				p.clocks = append(p.clocks, clock(t))
			}
			w := newWorld(t, p)
			l := w.emit(20)
			w.accept(either(60, 3000))
			l.end(t)
			w.settle(60 * time.Second)
			w.timesAreTrue(time.Now())

			// Who takes a retry that is far off for due can only find that it is not, again and again.
			far := receivertest.New(t, receivertest.Default(receivertest.Status(http.StatusInternalServerError)))
			subscribe(t, w.api(), far, map[string]any{"eventTypes": []string{"participant.created"}, "retrySchedule": []string{"PT30M"}})
			for range 10 {
				e := emit(t, w.api(), map[string]any{"eventType": "participant.created", "data": map[string]any{}})
				until(t, w.api(), e.Event.ID, "RETRYING")
			}
			before := w.processed()
			w.pass(2 * time.Second)
			require.Less(t, w.processed()-before, 50, "tasks in two seconds in which nothing is due")
			require.Len(t, far.Requests(), 10)
		})
	}
}

// The clock of the one process there is, and so the database's, is set while it runs.
func TestFault31_TheClockIsSet(t *testing.T) {
	t.Parallel()
	clock := newWrongClock(t, 0, 0)
	w := newWorld(t, plan{stack: apptest.Embedded, clocks: []*wrongClock{clock}})
	w.books.stepped = true
	l := w.emit(20)
	w.accept(20)
	for range either(1, 20) {
		for _, ahead := range []time.Duration{time.Hour, 0, 24 * time.Hour, 500 * time.Millisecond} {
			clock.set(ahead, 0)
			w.accept(20)
		}
		clock.set(0, 500*time.Millisecond)
		w.accept(20)
	}
	// What was put off by a clock that was ahead is due a day later: it is, again.
	clock.set(25*time.Hour, 0)
	l.end(t)
	w.settle(60 * time.Second)
}

// processed is how many tasks the workers have finished so far.
func (w *world) processed() (all int) {
	w.t.Helper()
	client := w.client()
	keys, err := client.Keys(w.t.Context(), "asynq:{deliveries}:processed*").Result()
	require.NoError(w.t, err)
	for _, key := range keys {
		text, err := client.Get(w.t.Context(), key).Result()
		require.NoError(w.t, err)
		n, err := strconv.Atoi(text)
		require.NoError(w.t, err)
		all = max(all, n) // the total, and each day's
	}
	return all
}

// timesAreTrue demands that the history and the requests tell the time as the database does, after
// settle.
func (w *world) timesAreTrue(now time.Time) {
	w.t.Helper()
	const tolerance = 5 * time.Second
	for _, d := range w.books.deliveries {
		for _, a := range d.attempts {
			require.False(w.t, a.endedAt.Before(a.startedAt), "attempt %d of %s ended %s before it began", a.number, d.id, a.startedAt.Sub(a.endedAt))
			require.False(w.t, a.startedAt.After(now.Add(tolerance)), "attempt %d of %s began at %s", a.number, d.id, a.startedAt)
			require.WithinDuration(w.t, d.createdAt, a.startedAt, 3*time.Minute, "attempt %d of %s", a.number, d.id)
		}
	}
	for _, r := range w.books.receipts {
		seconds, err := strconv.ParseInt(r.timestamp, 10, 64)
		require.NoError(w.t, err)
		require.WithinDuration(w.t, r.at, time.Unix(seconds, 0), tolerance, "%s of %s", signing.HeaderTimestamp, r.id)
	}
}

// The clock runs over the days on which clocks and calendars break: nothing else happens on them.
func TestFault32_DaysOfTheCalendar(t *testing.T) {
	t.Parallel()
	for name, day := range map[string]struct{ zone, at string }{
		"summer time begins": {"America/New_York", "2027-03-14T07:00:00Z"},
		"summer time ends":   {"America/New_York", "2027-11-07T06:00:00Z"},
		"a leap second":      {"UTC", "2017-01-01T00:00:00Z"},
		"past 31 bits":       {"UTC", "2038-01-19T03:14:08Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, day.at)
			require.NoError(t, err)
			clock := newWrongClock(t, time.Until(at.Add(-3*time.Second)), 0)
			w := newWorld(t, plan{stack: apptest.Embedded, few: true, clocks: []*wrongClock{clock}, env: map[string]string{"TZ": day.zone}})
			// It asks for three seconds, as a date; whoever cannot count that comes in an hour.
			w.subscribe(subscribed{name: "dated", schedule: []time.Duration{2 * time.Second}}, func(nth int) receivertest.Answer {
				return func(x *receivertest.Exchange) {
					if nth > 1 {
						receivertest.Status(http.StatusOK)(x)
						return
					}
					seconds, _ := strconv.ParseInt(x.Request.Header.Get(signing.HeaderTimestamp), 10, 64)
					later := time.Unix(seconds+3, 0).UTC().Format(http.TimeFormat)
					receivertest.Status(http.StatusServiceUnavailable, "Retry-After", later)(x)
				}
			}, map[string]any{"retrySchedule": []string{"PT1H"}})
			l := w.emit(20)
			w.accept(either(80, 3000))
			l.end(t)
			w.settle(60 * time.Second)
			require.True(t, w.lastAttempt().After(at), "the clock has not run over %s", at)
		})
	}
}

// lastAttempt is when the latest attempt began by the history, after settle.
func (w *world) lastAttempt() (last time.Time) {
	for _, d := range w.books.deliveries {
		for _, a := range d.attempts {
			if a.startedAt.After(last) {
				last = a.startedAt
			}
		}
	}
	return last
}

// Whatever instant is named, it is waited for, or refused by a word about it.
func TestFault32_InstantsInInput(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		api := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		subscribe(t, api.Client, receiver, nil)
		for at, want := range map[string]string{
			"2038-01-19T03:14:07Z":             "2038-01-19T03:14:07Z",
			"2038-01-19T03:14:08Z":             "2038-01-19T03:14:08Z",
			"2106-02-07T06:28:16Z":             "2106-02-07T06:28:16Z",
			"2027-03-14T02:30:00-05:00":        "2027-03-14T07:30:00Z",        // skipped in New York
			"2027-11-07T01:30:00-04:00":        "2027-11-07T05:30:00Z",        // the first of two
			"2027-11-07T01:30:00-05:00":        "2027-11-07T06:30:00Z",        // the second
			"2028-02-29T23:59:59.999999999Z":   "2028-02-29T23:59:59.999999Z", // a leap day, and what the database keeps
			"2030-01-01T00:00:00.123456+14:00": "2029-12-31T10:00:00.123456Z",
		} {
			e := emit(t, api.Client, map[string]any{"eventType": "message.sent", "data": map[string]any{}, "deliverAt": at})
			require.Empty(t, e.UserErrors, at)
			d := until(t, api.Client, e.Event.ID, "PENDING")
			require.Equal(t, "SCHEDULED", *d.StatusReason, at)
			wanted, err := time.Parse(time.RFC3339Nano, want)
			require.NoError(t, err)
			require.WithinDuration(t, wanted, *d.NextAttemptAt, time.Microsecond, at)
		}
		for _, at := range []string{"2016-12-31T23:59:60Z", "2027-02-29T00:00:00Z", "2038-13-01T00:00:00Z", "2038-01-19 03:14:08", "99999-01-01T00:00:00Z", "2147483648"} {
			a, err := api.Post(t.Context(), `mutation($at: Time!) { emitEvent(input: {eventType: "message.sent", data: {}, deliverAt: $at}) { event { id } userErrors { code message field } } }`,
				map[string]any{"at": at})
			require.NoError(t, err)
			require.NotContains(t, a.Codes(), "INTERNAL", at)
			require.Empty(t, eventID(a.Data), at)
			require.Contains(t, strings.ToLower(string(a.Body)), "time", at)
		}
		require.Empty(t, receiver.Requests())
	})
}
