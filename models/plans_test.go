package models_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// grown is how many rows come into each big table at once.
const grown = 30_000

// oldPage fills n rows that look as if an hour had passed. In: how many.
var oldPage = []string{
	`INSERT INTO events (id, tenant, event_type, data, "timestamp", matched, epoch, created_at)
		SELECT 'evt_' || lpad(n::text, 26, '0'), 'acme', 'participant.created', '{}', now(), 1, 0, now() FROM generate_series(1, %d) AS n`,
	`INSERT INTO deliveries (id, tenant, event_id, webhook_id, event_type, revision, status, "trigger", attempt_count, attempt_trigger, created_at, completed_at)
		SELECT 'dlv_' || lpad(n::text, 26, '0'), 'acme', 'evt_' || lpad(n::text, 26, '0'), 'wh_00000000000000000000000000', 'participant.created', 1,
			'SUCCEEDED', 'AUTOMATIC', 1, 'AUTOMATIC', now(), now() FROM generate_series(1, %d) AS n`,
	`INSERT INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, ended_at, outcome, request_url, request_headers)
		SELECT 'dlv_' || lpad(n::text, 26, '0'), 1, 'acme', 't', 'AUTOMATIC', now(), now(), 'SUCCESS', 'http://127.0.0.1/', '[]' FROM generate_series(1, %d) AS n`,
}

// A server that has been running over small tables gets a burst: until the statistics follow, which
// takes a minute, nothing reads a table whole because that was the best way when it was small.
func TestPostgres_PlansFollowTheTables(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dsn := testenv.PostgresURL(t)
	store := modelstest.Open(t, models.Options{DSN: dsn, MaxConns: 2, StatementTimeout: time.Minute, WorkTimeout: time.Minute})
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	run := func(format string, args ...any) {
		_, err := db.ExecContext(ctx, fmt.Sprintf(format, args...))
		require.NoError(t, err)
	}
	tables := []string{"events", "deliveries", "attempts"}
	w := newWebhook(t, store, "acme", nil)
	reads := store.Tenant(models.Reach{Tenant: "acme"})
	work := func() {
		e := commit(t, store, eventTo(w))[0]
		id := e.Deliveries[0].ID
		record(t, store, attempt(claimOne(t, store, id, "t"), models.OutcomeHTTPError, models.RetryAfter(time.Hour)))
		for _, f := range []models.DeliveryFilter{
			{}, {Statuses: []models.DeliveryStatus{models.DeliveryRetrying}}, {WebhookID: &w.ID}, {EventID: &e.Event.ID}, {EventTypes: []string{"participant.created"}},
		} {
			_, err := reads.Deliveries(ctx, f, models.Page{})
			require.NoError(t, err)
		}
		_, err := reads.DeliveriesOfEvents(ctx, []string{e.Event.ID, models.NewID(models.PrefixEvent)}, models.DeliveryFilter{}, models.Page{})
		require.NoError(t, err)
		_, err = reads.Events(ctx, models.EventFilter{}, models.Page{})
		require.NoError(t, err)
		_, err = reads.AttemptsOf(ctx, []string{id, models.NewID(models.PrefixDelivery)})
		require.NoError(t, err)
		_, err = reads.LastAttempts(ctx, []string{id, models.NewID(models.PrefixDelivery)})
		require.NoError(t, err)
		_, err = store.DueDeliveries(ctx, 0, models.DueCursor{}, 100)
		require.NoError(t, err)
		_, _, err = store.ExpireClaims(ctx, models.DueCursor{}, 100)
		require.NoError(t, err)
		_, err = store.OpenStats(ctx)
		require.NoError(t, err)
		_, err = store.EraseEvent(ctx, models.Reach{Tenant: "acme"}, e.Event.ID)
		require.NoError(t, err)
		_, err = store.PurgeEvents(ctx, time.Now().Add(time.Hour), "", 3)
		require.NoError(t, err)
	}
	for range 3 {
		work()
	}
	for _, table := range tables {
		// The statistics of now stay; what would follow later is not waited for.
		run("ALTER TABLE %s SET (autovacuum_enabled = off)", table)
		run("VACUUM ANALYZE %s", table)
	}
	for range 8 { // the server thinks of a plan to keep at the sixth time
		work()
	}
	for _, text := range oldPage {
		run(text, grown)
	}
	work()
	require.NoError(t, store.Close())
	// What a session has read is counted for all to see when it has ended.
	require.Eventually(t, func() bool {
		var others int
		require.NoError(t, db.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'webhooks'`).Scan(&others))
		return others == 0
	}, time.Minute, 10*time.Millisecond)
	for _, table := range tables {
		var read int
		require.NoError(t, db.QueryRowContext(ctx, "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = $1", table).Scan(&read))
		assert.Less(t, read, grown, "rows of %s read by scans of the whole table", table)
	}
}
