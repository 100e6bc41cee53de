package e2e

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// truthful are books in which everything is as it must be: one event to a webhook that fails once,
// one that is paused and one that is limited, after a call that timed out.
func truthful() *books {
	at := func(d time.Duration) time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(d) }
	schedule := []time.Duration{200 * time.Millisecond, 200 * time.Millisecond}
	b := &books{
		patience: 2 * time.Second,
		webhooks: []subscribed{
			{id: "wh_a", name: "flaky", schedule: schedule},
			{id: "wh_b", name: "paused", schedule: schedule, held: true},
			{id: "wh_c", name: "limited", schedule: schedule, rate: 2},
		},
		calls: []call{
			{key: "k", code: "UNAVAILABLE", sent: at(0), answered: at(time.Second)},
			{key: "k", id: "evt_1", matched: 3, sent: at(time.Second), answered: at(1100 * time.Millisecond)},
		},
		events: []eventRecord{{"evt_1", "k"}},
		receipts: []receipt{
			{webhook: "wh_a", id: "evt_1", timestamp: "1767323047", hash: "h", at: at(1200 * time.Millisecond), answered: at(1210 * time.Millisecond), status: 500},
			{webhook: "wh_a", id: "evt_1", timestamp: "1767323047", hash: "h", at: at(1450 * time.Millisecond), answered: at(1460 * time.Millisecond), status: 200},
			{webhook: "wh_c", id: "evt_1", timestamp: "1767323047", hash: "h", at: at(1200 * time.Millisecond), answered: at(1210 * time.Millisecond), status: 200},
		},
	}
	b.deliveries = []deliveryRecord{
		{id: "dlv_a", event: "evt_1", webhook: "wh_a", status: "SUCCEEDED", attemptCount: 2, completedAt: at(1470 * time.Millisecond), attempts: []attemptRecord{
			{number: 1, outcome: "HTTP_ERROR", timestamp: "1767323047", hash: "h", status: 500, startedAt: at(1190 * time.Millisecond), endedAt: at(1215 * time.Millisecond)},
			{number: 2, outcome: "SUCCESS", timestamp: "1767323047", hash: "h", status: 200, startedAt: at(1440 * time.Millisecond), endedAt: at(1465 * time.Millisecond)},
		}},
		{id: "dlv_b", event: "evt_1", webhook: "wh_b", status: "HELD"},
		{id: "dlv_c", event: "evt_1", webhook: "wh_c", status: "SUCCEEDED", attemptCount: 1, completedAt: at(1220 * time.Millisecond), attempts: []attemptRecord{
			{number: 1, outcome: "SUCCESS", timestamp: "1767323047", hash: "h", status: 200, startedAt: at(1190 * time.Millisecond), endedAt: at(1215 * time.Millisecond)},
		}},
	}
	return b
}

// A checker that cannot fail proves nothing: each violation that is planted must be found.
func TestFaultBooks_EveryPlantedViolationIsFound(t *testing.T) {
	t.Parallel()
	require.Empty(t, truthful().violations())
	// An abandoned attempt accounts for one request, and for none.
	abandoned := truthful()
	abandoned.deliveries[0].attempts[0] = attemptRecord{number: 1, outcome: "ABANDONED"}
	abandoned.deliveries[0].attemptCount = 1
	require.Empty(t, abandoned.violations())
	abandoned.receipts = abandoned.receipts[1:]
	require.Empty(t, abandoned.violations())

	// One of which something was heard late accounts for that request, and may be followed at once.
	late := truthful()
	late.webhooks[0].schedule, late.deliveries[0].attemptCount = nil, 1
	late.deliveries[0].attempts[0].outcome = "ABANDONED"
	late.receipts[1].at = late.receipts[0].answered
	require.Empty(t, late.violations())
	late.receipts = late.receipts[1:]
	require.NotEmpty(t, late.violations())

	// A success that was heard of late may have been followed at once, too.
	twice := truthful()
	twice.deliveries[0].attempts[0].outcome, twice.deliveries[0].attempts[0].status, twice.receipts[0].status = "SUCCESS", 200, 200
	twice.receipts[1].at = twice.receipts[0].answered
	require.Empty(t, twice.violations())

	// What Postgres forgot when it was killed is forgiven, at that moment and no other.
	forgotten := truthful()
	forgotten.receipts = append(forgotten.receipts, forgotten.receipts[0])
	require.NotEmpty(t, forgotten.violations())
	forgotten.crashes = []time.Time{forgotten.receipts[0].at.Add(time.Minute)}
	require.NotEmpty(t, forgotten.violations())
	forgotten.crashes = []time.Time{forgotten.receipts[0].at}
	require.Empty(t, forgotten.violations())

	// Where the time was over before there was a connection, nothing came. Where there was one, something did.
	unconnected := truthful()
	unconnected.receipts = unconnected.receipts[1:]
	first := &unconnected.deliveries[0].attempts[0]
	first.outcome, first.status, first.error = "TIMEOUT", 0, "The attempt's 15s ran out while connecting to the receiver."
	require.Empty(t, unconnected.violations())
	first.error = "The attempt's 15s ran out while waiting for the receiver's answer."
	require.NotEmpty(t, unconnected.violations())

	// A receiver that logs at once what came over some seconds was behind itself.
	behind := truthful()
	for n := range 4 {
		more := behind.receipts[2]
		more.arrived = more.at.Add(time.Duration(n+1) * time.Second)
		behind.receipts = append(behind.receipts, more)
	}
	for _, v := range behind.violations() {
		require.NotEqual(t, "I9", v.invariant)
	}
	// So it was if it took up last what came first.
	swapped := truthful()
	early := &swapped.receipts[0]
	early.timestamp, swapped.deliveries[0].attempts[0].timestamp = "1767323046", "1767323046"
	early.arrived, early.at = early.at, early.at.Add(2*time.Second)
	swapped.receipts[0], swapped.receipts[1] = swapped.receipts[1], swapped.receipts[0]
	for _, v := range swapped.violations() {
		require.NotEqual(t, "I6", v.invariant)
	}

	for _, c := range []struct {
		name, invariant string
		plant           func(b *books)
	}{
		{"accepted and gone", "I1", func(b *books) { b.events, b.deliveries, b.receipts = nil, nil, nil }},
		{"accepted and never ended", "I1", func(b *books) { b.deliveries[0].status = "RETRYING" }},
		{"a webhook passed over", "I1", func(b *books) { b.calls[1].matched = 2 }},
		{"success that nobody got", "I2", func(b *books) { b.receipts = b.receipts[:2] }},
		{"success after a 500", "I2", func(b *books) { b.receipts[2].status, b.deliveries[2].attempts[0].status = 500, 500 }},
		{"failed though the receiver said 2xx", "I2", func(b *books) { b.deliveries[2].status = "FAILED" }},
		{"success with no attempt", "I2", func(b *books) { b.deliveries[2].attempts, b.deliveries[2].attemptCount = nil, 0 }},
		{"an attempt after the end", "I3", func(b *books) { b.deliveries[0].completedAt = b.deliveries[0].attempts[0].endedAt }},
		{"a request after the end", "I3", func(b *books) {
			late := b.receipts[2]
			late.at = late.at.Add(time.Minute)
			b.receipts = append(b.receipts, late)
		}},
		{"sent while paused", "I3", func(b *books) {
			b.receipts = append(b.receipts, receipt{webhook: "wh_b", id: "evt_1", timestamp: "1767323047", hash: "h", status: 200})
		}},
		{"attempted while paused", "I3", func(b *books) { b.deliveries[1].attempts = b.deliveries[2].attempts }},
		{"sent after a pause was answered", "I3", func(b *books) { b.webhooks[0].silences = []silence{{from: b.receipts[0].answered}} }},
		{"a request in no attempt", "I4", func(b *books) { b.receipts = append(b.receipts, b.receipts[2]) }},
		{"two requests for one abandoned attempt", "I4", func(b *books) {
			b.deliveries[0].attempts[0] = attemptRecord{number: 1, outcome: "ABANDONED"}
			b.deliveries[0].attemptCount = 1
			b.receipts = append(b.receipts, b.receipts[0])
		}},
		{"an attempt that no receiver saw", "I4", func(b *books) { b.receipts = b.receipts[1:] }},
		{"another status in the history", "I4", func(b *books) { b.deliveries[0].attempts[0].status = 503 }},
		{"another body in the history", "I4", func(b *books) { b.deliveries[0].attempts[0].hash = "other" }},
		{"another timestamp in the history", "I4", func(b *books) { b.deliveries[0].attempts[0].timestamp = "1767323046" }},
		{"an event without one of its deliveries", "I5", func(b *books) { b.deliveries = b.deliveries[:2]; b.receipts = b.receipts[:2] }},
		{"a request of no event", "I5", func(b *books) { b.receipts[2].id = "evt_2" }},
		{"a bad signature", "I6", func(b *books) { b.receipts[0].signature = errors.New("no") }},
		{"another body on the retry", "I6", func(b *books) { b.receipts[1].hash, b.deliveries[0].attempts[1].hash = "other", "other" }},
		{"a timestamp that falls", "I6", func(b *books) {
			b.receipts[1].timestamp, b.deliveries[0].attempts[1].timestamp = "1767323040", "1767323040"
		}},
		{"a retry too early", "I7", func(b *books) { b.receipts[1].at = b.receipts[0].answered.Add(100 * time.Millisecond) }},
		{"more attempts than the schedule has", "I8", func(b *books) { b.webhooks[0].schedule = nil }},
		{"an attempt counted and not made", "I8", func(b *books) { b.deliveries[0].attemptCount = 3 }},
		{"faster than the limit", "I9", func(b *books) { b.receipts = append(b.receipts, b.receipts[2], b.receipts[2]) }},
		{"faster than the limit, logged slowly", "I9", func(b *books) {
			for n := range 2 {
				late := b.receipts[2]
				late.arrived, late.at = late.at, late.at.Add(time.Duration(n+1)*time.Minute)
				b.receipts = append(b.receipts, late)
			}
		}},
		{"two answers for one key", "I10", func(b *books) { b.calls[0].id, b.calls[0].matched = "evt_0", 3 }},
		{"two events of one key", "I10", func(b *books) { b.events = append(b.events, eventRecord{"evt_2", "k"}) }},
		{"INTERNAL", "I14", func(b *books) { b.calls[0].code = "INTERNAL" }},
		{"a call that hangs", "I14", func(b *books) { b.calls[0].answered = b.calls[0].sent.Add(3 * time.Second) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := truthful()
			c.plant(b)
			var found []string
			for _, v := range b.violations() {
				found = append(found, v.invariant)
				require.NotEmpty(t, v.what)
			}
			require.Contains(t, found, c.invariant)
		})
	}
}
