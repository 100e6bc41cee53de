package app_test

import (
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// waiting is a delivery as somebody sees it who asks why it has not come.
type waiting struct {
	ID, Status                 string
	StatusReason, StatusDetail *string
	NextAttemptAt, CompletedAt *time.Time
	AttemptCount               int
}

// backlog is a webhook's deliveries, all of them.
func backlog(t testing.TB, api *apptest.Client, webhookID string) []waiting {
	t.Helper()
	var out struct {
		Webhook struct{ Deliveries struct{ Nodes []waiting } }
	}
	api.Query(t, `query($id: ID!) { webhook(id: $id) { deliveries(first: 100) { nodes {
		id status statusReason statusDetail nextAttemptAt completedAt attemptCount } } } }`, map[string]any{"id": webhookID}, &out)
	return out.Webhook.Deliveries.Nodes
}

// told is when the last of those that wait for this reason comes, and how many they are.
func told(list []waiting, reason string) (last time.Time, n int) {
	for _, d := range list {
		if d.StatusReason != nil && *d.StatusReason == reason && d.NextAttemptAt != nil {
			n++
			if d.NextAttemptAt.After(last) {
				last = *d.NextAttemptAt
			}
		}
	}
	return last, n
}

// allBefore waits until all of them have succeeded, the last one well before a time.
func allBefore(t testing.TB, api *apptest.Client, webhookID string, last time.Time) {
	t.Helper()
	apptest.Eventually(t, func() (bool, string) {
		open := 0
		for _, d := range backlog(t, api, webhookID) {
			if d.Status != "SUCCEEDED" {
				open++
			}
		}
		return open == 0, fmt.Sprint(open, " have not succeeded")
	})
	for _, d := range backlog(t, api, webhookID) {
		require.True(t, d.CompletedAt.Before(last), "ended at %s, told %s", d.CompletedAt, last)
		require.Equal(t, 1, d.AttemptCount, "waiting is no attempt")
	}
}

// A receiver that hangs has what it may of the slots; what comes meanwhile waits, says so and costs nothing,
// and another webhook's events are not kept. When it recovers, what waits comes, and not at the times that
// were right for one that hangs.
func TestD10_WhatWaitsForASlotComesWhenTheReceiverRecovers(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, map[string]string{"WORKER_CONCURRENCY": "8", "WEBHOOK_SHARE": "0.25"})
		hanging, healthy := receivertest.New(t, receivertest.Default(receivertest.After(receivertest.Status(200)))), receivertest.New(t)
		w := create(t, s.Client, hanging.URL(), map[string]any{"eventTypes": []string{"message.sent"}, "timeout": "PT30S"}).Webhook
		create(t, s.Client, healthy.URL(), map[string]any{"eventTypes": []string{"participant.created"}})
		const n = 60
		for range n {
			emit(t, s.Client, "message.sent", `{}`)
		}
		var last time.Time
		apptest.Eventually(t, func() (bool, string) {
			list := backlog(t, s.Client, w.ID)
			var waiting int
			last, waiting = told(list, "RATE_LIMITED")
			return waiting == n-2, fmt.Sprint(waiting, " wait for a slot")
		})
		require.Len(t, hanging.Requests(), 2, "its share of the slots")
		eventually(t, s.Client, emit(t, s.Client, "participant.created", `{}`), "SUCCEEDED")
		// Long enough that the times show how slow it is.
		apptest.Eventually(t, func() (bool, string) {
			emit(t, s.Client, "message.sent", `{}`)
			last, _ = told(backlog(t, s.Client, w.ID), "RATE_LIMITED")
			return time.Until(last) > 20*time.Second, fmt.Sprint("the last one comes in ", time.Until(last))
		})
		hanging.Answer(receivertest.Status(200))
		hanging.Release()
		allBefore(t, s.Client, w.ID, last.Add(-5*time.Second))
	})
}

// What is emitted while a webhook's rate has a line says when it comes, without having been claimed for it,
// and goes on at once when the rate is taken away.
func TestD9_ABacklogGoesOnWhenTheRateIsTakenAway(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		w := create(t, s.Client, receiver.URL(), map[string]any{"rateLimitPerSecond": 1}).Webhook
		for range 60 {
			emit(t, s.Client, "message.sent", `{}`)
		}
		var last time.Time
		apptest.Eventually(t, func() (bool, string) {
			var n int
			last, n = told(backlog(t, s.Client, w.ID), "RATE_LIMITED")
			return n >= 40, fmt.Sprint(n, " wait for their rate")
		})
		require.Greater(t, time.Until(last), 30*time.Second)
		var out struct {
			UpdateWebhook struct{ UserErrors []userError }
		}
		s.Query(t, `mutation($id: ID!) { updateWebhook(id: $id, input: {rateLimitPerSecond: null}) { userErrors { code message } } }`,
			map[string]any{"id": w.ID}, &out)
		require.Empty(t, out.UpdateWebhook.UserErrors)
		allBefore(t, s.Client, w.ID, last.Add(-10*time.Second))
	})
}

// What is emitted while a webhook's circuit is open waits for that without having been attempted.
func TestD8_WhatComesWhileTheCircuitIsOpenWaits(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w := create(t, s.Client, receiver.URL(), map[string]any{"retrySchedule": []string{}}).Webhook
		var held []waiting
		apptest.Eventually(t, func() (bool, string) {
			emit(t, s.Client, "message.sent", `{}`)
			held = nil
			for _, d := range backlog(t, s.Client, w.ID) {
				if d.StatusReason != nil && *d.StatusReason == "CIRCUIT_OPEN" {
					held = append(held, d)
				}
			}
			return len(held) >= 10, fmt.Sprint(len(held), " are held")
		})
		for _, d := range held {
			assert.Equal(t, "PENDING", d.Status)
			assert.Zero(t, d.AttemptCount)
			assert.True(t, d.NextAttemptAt.After(time.Now()))
		}
	})
}

// heldBack is a webhook whose circuit is open for an hour, with deliveries that wait for it to close.
type heldBack struct {
	*apptest.Server

	receiver  *receivertest.Receiver
	webhookID string
	failed    string         // one of the deliveries that opened it
	place     map[string]int // of its events: the first is 0
}

// holdBack has n deliveries held back. Its webhook has one slot, since the order of what comes at the same moment is
// the machines' affair.
func holdBack(t *testing.T, env map[string]string, n int) *heldBack {
	t.Helper()
	maps.Copy(env, map[string]string{
		"BREAKER_COOLDOWN": "1h", "BREAKER_MIN_ATTEMPTS": "4", "WORKER_CONCURRENCY": "64", "WEBHOOK_SHARE": "0.015625",
	})
	h := &heldBack{
		Server: apptest.StartWith(t, app.RoleAll, env), place: map[string]int{},
		receiver: receivertest.New(t, receivertest.Default(receivertest.Status(500))),
	}
	h.webhookID = create(t, h.Client, h.receiver.URL(), map[string]any{"retrySchedule": []string{}}).Webhook.ID
	var last time.Time
	apptest.Eventually(t, func() (bool, string) {
		h.place[emit(t, h.Client, "message.sent", `{}`)] = len(h.place)
		list := backlog(t, h.Client, h.webhookID)
		var held int
		last, held = told(list, "CIRCUIT_OPEN")
		h.failed = list[len(list)-1].ID
		return held >= n, fmt.Sprint(held, " are held")
	})
	require.Greater(t, time.Until(last), 30*time.Minute)
	return h
}

// redeliver asks for one more attempt, which passes an open circuit.
func (h *heldBack) redeliver(t *testing.T) {
	t.Helper()
	var out struct {
		Redeliver struct{ UserErrors []userError }
	}
	h.Query(t, `mutation($id: ID!) { redeliver(deliveryId: $id) { userErrors { code message } } }`, map[string]any{"id": h.failed}, &out)
	require.Empty(t, out.Redeliver.UserErrors)
}

// come waits until nothing is open any more.
func (h *heldBack) come(t *testing.T) {
	t.Helper()
	apptest.Eventually(t, func() (bool, string) {
		var open int
		for _, d := range backlog(t, h.Client, h.webhookID) {
			if d.CompletedAt == nil {
				open++
			}
		}
		return open == 0, fmt.Sprint(open, " have not come")
	})
}

// When a circuit closes, what it held back comes at once, and not at the times that it was told, the oldest first.
func TestD8_WhatACircuitHeldComesWhenItCloses(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		const held = 30 // as many as one task takes: two may overtake each other
		h := holdBack(t, apptest.Environment(t, stack), held)
		before := len(h.receiver.Requests())
		h.receiver.Answer(receivertest.Status(200))
		h.redeliver(t)
		h.come(t)
		came := h.receiver.Requests()[before+1:] // after the one that a person asked for
		require.Len(t, came, held)
		first := len(h.place) - held
		var off int
		for n, r := range came {
			off += max(h.place[r.ID()]-first-n, n+first-h.place[r.ID()])
		}
		require.Less(t, off, held*held/4, "places off, of which chance gives a third of the square")
	})
}

// A database that does not answer when a circuit closes is asked again for what was held back.
func TestD8_WhatACircuitHeldComesWhenTheDatabaseIsBack(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		h := holdBack(t, env, 3)
		h.receiver.Answer(receivertest.After(receivertest.Status(200)))
		before := len(h.receiver.Requests())
		h.redeliver(t)
		h.receiver.Wait(t, before+1)
		unlock := lockDeliveries(t, stack, env)
		h.receiver.Answer(receivertest.Status(200))
		h.receiver.Release()
		apptest.Eventually(t, func() (bool, string) {
			failed := strings.Count(h.Log.String(), "deliveries that wait for a slot not fetched")
			return failed >= 2, fmt.Sprint(failed, " looks have failed")
		})
		unlock()
		h.come(t)
	})
}

// lockDeliveries keeps everybody else from changing deliveries.
func lockDeliveries(t *testing.T, stack apptest.Stack, env map[string]string) (unlock func()) {
	t.Helper()
	driver, dsn, lock := "pgx", env["DATABASE_URL"], "LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE"
	if stack == apptest.Embedded {
		driver, dsn = "sqlite", "file:"+filepath.Join(env["DATA_DIR"], app.DatabaseFile)+"?_pragma=busy_timeout(30000)"
		lock = "UPDATE deliveries SET tenant = tenant WHERE id = ''"
	}
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), lock)
	require.NoError(t, err)
	return func() {
		require.NoError(t, tx.Rollback())
		require.NoError(t, db.Close())
	}
}
