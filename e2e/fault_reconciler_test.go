package e2e

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// readiness is what /readyz says.
type readiness struct {
	Status string
	Parts  map[string]struct{ Status, Detail string }
}

func readyz(t testing.TB, url string) (r readiness) {
	t.Helper()
	code, body := get(t, url+"/readyz", nil)
	require.Equal(t, http.StatusOK, code, body)
	require.NoError(t, json.Unmarshal([]byte(body), &r), body)
	return r
}

const reconcilerAge = "webhooks_reconciler_age_seconds"

// The lease of the reconciler is taken away from whoever holds it, all the time, while the queue is
// emptied all the time: four processes put back what is due, each for itself.
func TestFault30_ReconcilersAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, workers: 4, env: map[string]string{"RECONCILE_INTERVAL": "100ms"}})
	admin, queue := w.sql(t.Context()), w.client()
	l := w.emit(20)
	w.accept(20)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := range either(200, 6000) {
		<-tick.C
		_, err := admin.Exec(t.Context(), "DELETE FROM leases WHERE name = 'reconcile'")
		require.NoError(t, err)
		if n%20 == 0 {
			require.NoError(t, queue.FlushAll(t.Context()).Err())
		}
	}
	l.end(t)
	w.settle(60 * time.Second)
	require.Zero(t, w.twice(), "what several put back is sent once")
	require.Zero(t, w.abandoned())
	at := 0
	for _, p := range w.workers {
		repairs := metric(t, apptest.NewClient(p.url(), w.api().Key), "webhooks_reconciler_repairs_total")
		t.Logf("%g deliveries put back by one of them", repairs)
		if repairs > 0 {
			at++
		}
	}
	require.GreaterOrEqual(t, at, 2, "several put back")
}

// The reconciler is gone with all workers: the API that is left says for how long, and what came
// meanwhile is delivered when there is one again.
func TestFault30_NoReconciler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, workers: 4, few: true, env: map[string]string{"RECONCILE_INTERVAL": "500ms"}})
	const late = 3*500*time.Millisecond + 2*time.Second
	l := w.emit(20)
	w.accept(20)
	reconciling := func() (bool, string) {
		r := readyz(t, w.api().URL)
		return r.Status == "ready" && r.Parts["reconciler"].Status == "ok", r.Parts["reconciler"].Detail
	}
	apptest.Eventually(t, reconciling)
	require.Less(t, metric(t, w.api(), reconcilerAge), late.Seconds())

	// One of them is killed, the one that held the lease or not: another does it.
	w.workers[0].kill()
	w.pass(either(late, 60*time.Second))
	apptest.Eventually(t, reconciling)

	for _, p := range w.workers {
		p.kill()
	}
	killed := time.Now()
	apptest.Eventually(t, func() (bool, string) {
		r := readyz(t, w.api().URL)
		return r.Status == "degraded" && r.Parts["reconciler"].Status == "degraded", r.Parts["reconciler"].Detail
	})
	require.Contains(t, readyz(t, w.api().URL).Parts["reconciler"].Detail, "has not run for")
	age := metric(t, w.api(), reconcilerAge)
	require.Greater(t, age, late.Seconds())
	require.Less(t, age, time.Since(killed).Seconds()+late.Seconds())
	w.accept(either(20, 2000))
	w.restartSenders()
	apptest.Eventually(t, reconciling)
	require.Less(t, metric(t, w.api(), reconcilerAge), late.Seconds())
	l.end(t)
	w.settle(leaseOver)
}
