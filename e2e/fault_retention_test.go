package e2e

import (
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// oldRows fills n events of 40 days ago with a delivery and an attempt each into the world's database.
// In: how many, that moment. An id of zeros sorts before all others, as one of that time does.
const (
	oldEvents = `INSERT INTO events (id, tenant, event_type, data, "timestamp", matched, epoch, created_at)
		SELECT 'evt_%[3]s', 'default', 'old.sent', '{"old":true}', %[2]s, 1, 0, %[2]s FROM %[1]s`
	oldDeliveries = `INSERT INTO deliveries (id, tenant, event_id, webhook_id, event_type, revision, status, "trigger", attempt_count,
			attempt_trigger, last_outcome, last_status, succeeded_at, completed_at, created_at)
		SELECT 'dlv_%[3]s', 'default', 'evt_%[3]s', 'wh_00000000000000000000000000', 'old.sent', 1, 'SUCCEEDED', 'AUTOMATIC', 1,
			'AUTOMATIC', 'SUCCESS', 200, %[2]s, %[2]s, %[2]s FROM %[1]s`
	oldAttempts = `INSERT INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, ended_at, outcome, request_url, request_headers, response_status)
		SELECT 'dlv_%[3]s', 1, 'default', 'tok', 'AUTOMATIC', %[2]s, %[2]s, 'SUCCESS', 'http://127.0.0.1:1/', '[]', 200 FROM %[1]s`
)

func (w *world) oldRows(n int) {
	w.t.Helper()
	at := time.Now().AddDate(0, 0, -40)
	statements := []string{oldEvents, oldDeliveries, oldAttempts}
	if url := w.env["DATABASE_URL"]; url != "" {
		connection, err := pgx.Connect(w.t.Context(), url)
		require.NoError(w.t, err)
		defer func() { _ = connection.Close(w.t.Context()) }()
		for _, text := range statements {
			rows := fmt.Sprintf("generate_series(1, %d) AS n", n)
			_, err := connection.Exec(w.t.Context(), pieces(text, rows, "'"+at.Format(time.RFC3339)+"'::timestamptz", "' || lpad(n::text, 26, '0') || '"))
			require.NoError(w.t, err)
		}
		return
	}
	w.apis[0].stop() // it has the file to itself
	db := w.sqlite()
	for _, text := range statements {
		rows := fmt.Sprintf("(WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < %d) SELECT n FROM series)", n)
		_, err := db.ExecContext(w.t.Context(), pieces(text, rows, strconv.FormatInt(at.UnixMicro(), 10), "' || printf('%026d', n) || '"))
		require.NoError(w.t, err)
	}
	require.NoError(w.t, db.Close())
	w.restartAPI(0)
}

func pieces(text, rows, at, id string) string { return fmt.Sprintf(text, rows, at, id) }

// sqlite opens the embedded database, which no process may have open.
func (w *world) sqlite() *sql.DB {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.env["DATA_DIR"], app.DatabaseFile))
	require.NoError(w.t, err)
	db.SetMaxOpenConns(1)
	return db
}

// old is how many of the old events are left.
func (w *world) old() int {
	w.t.Helper()
	var out struct {
		Events struct {
			Nodes []struct{ ID string }
		}
	}
	w.api().Query(w.t, `{ events(first: 100, filter: {eventTypes: ["old.sent"]}) { nodes { id } } }`, nil, &out)
	return len(out.Events.Nodes)
}

// While what is old is removed, and events are erased whose attempts are under way, traffic goes on;
// and of what was erased nothing is left anywhere once the answer is there.
func TestFault46_RetentionAndEraseBesideTraffic(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1, env: map[string]string{"RETENTION": "240h", "RETENTION_INTERVAL": "1s"}})
		w.oldRows(either(500, 1_000_000))
		const canary = "canary-7d40"
		erased := receivertest.New(t)
		var hanging atomic.Bool
		erased.Answer(func(x *receivertest.Exchange) {
			if hanging.Load() {
				receivertest.After(receivertest.Reply(http.StatusOK, canary, "X-Echo", canary))(x)
				return
			}
			receivertest.Reply(http.StatusInternalServerError, canary, "X-Echo", canary)(x)
		})
		subscribe(t, w.api(), erased, map[string]any{
			"eventTypes": []string{"participant.created"}, "retrySchedule": iso(patient),
			"payloadQuery": "subscription { event { ... on ParticipantCreated { participant { name } } } }",
		})
		// Its filter fails, and may quote what it failed on.
		subscribe(t, w.api(), receivertest.New(t), map[string]any{"eventTypes": []string{"participant.created"}, "filter": `data.participant.attributes.plan == "x"`})

		l := w.emit(20)
		began := time.Now()
		var ids []string
		for n := range either(6, 500) {
			hanging.Store(n%2 == 0)
			e := emit(t, w.api(), map[string]any{"eventType": "participant.created", "data": map[string]any{"participant": map[string]any{"name": canary}}})
			require.Empty(t, e.UserErrors)
			id := e.Event.ID
			erased.WaitFor(t, "an attempt", func([]receivertest.Request) bool { return len(erased.ByID(id)) > 0 })
			var out struct {
				EraseEvent struct{ UserErrors []userError }
			}
			w.api().Query(t, `mutation($id: ID!) { eraseEvent(id: $id) { userErrors { code message field } } }`, map[string]any{"id": id}, &out)
			answered := time.Now()
			require.Empty(t, out.EraseEvent.UserErrors)
			erased.Release()
			ids = append(ids, id)
			apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
				list := deliveries(t, w.api(), map[string]any{"eventId": id})
				for _, d := range list {
					// The attempt under way is recorded yet, without what was answered to it.
					if d.Status == "PENDING" || d.Status == "RETRYING" || len(d.Attempts) < len(erased.ByID(id)) && d.Status != "SKIPPED" {
						return false, fmt.Sprintf("%+v", list)
					}
				}
				return len(list) == 2, fmt.Sprintf("%+v", list)
			})
			for _, r := range erased.ByID(id) {
				require.False(t, r.At.After(answered), "an attempt started after the answer of eraseEvent")
			}
		}
		apptest.EventuallyWithin(t, either(60*time.Second, 30*time.Minute), func() (bool, string) {
			left := w.old()
			return left == 0, fmt.Sprintf("%d old events or more are left", left)
		})
		beside := w.neverFails(began)
		require.Less(t, beside, either(50*time.Millisecond+slack, 50*time.Millisecond))
		if full() {
			alone := time.Now()
			w.accept(3000)
			require.LessOrEqual(t, beside, w.neverFails(alone)*3/2+5*time.Millisecond)
		}
		l.end(t)
		w.settle(60 * time.Second)

		a, err := w.api().Post(t.Context(), `query($ids: [ID!]!) { nodes(ids: $ids) { ... on Event { id data deliveries { nodes { statusDetail attempts { error
			request { body headers { value } } response { body headers { value } } } } } } } }`, map[string]any{"ids": ids[:min(len(ids), 5)]})
		require.NoError(t, err)
		require.Empty(t, a.Errors)
		require.NotContains(t, string(a.Body), canary)
		for _, p := range append(w.workers, w.apis...) {
			require.NotContains(t, p.stderr.String(), canary)
		}
		if stack == apptest.Production {
			require.NotContains(t, postgresDump(t, w.env["DATABASE_URL"]), canary)
			require.NotContains(t, redisDump(t, w.env["REDIS_URL"]), canary)
			return
		}
		w.apis[0].stop()
		require.NotContains(t, w.sqliteDump(), canary)
	})
}

// sqliteDump is every row of every table of the embedded database, as text.
func (w *world) sqliteDump() string {
	w.t.Helper()
	db := w.sqlite()
	defer func() { _ = db.Close() }()
	query := func(text string) (rows [][]any) {
		result, err := db.QueryContext(w.t.Context(), text)
		require.NoError(w.t, err)
		defer func() { _ = result.Close() }()
		columns, err := result.Columns()
		require.NoError(w.t, err)
		for result.Next() {
			row, into := make([]any, len(columns)), make([]any, len(columns))
			for n := range row {
				into[n] = &row[n]
			}
			require.NoError(w.t, result.Scan(into...))
			rows = append(rows, row)
		}
		require.NoError(w.t, result.Err())
		return rows
	}
	var text strings.Builder
	for _, table := range query(`SELECT name FROM sqlite_master WHERE type = 'table'`) {
		for _, row := range query(fmt.Sprintf("SELECT * FROM %q", table[0])) {
			fmt.Fprintf(&text, "%s %s\n", table[0], row)
		}
	}
	require.Contains(w.t, text.String(), "message.sent")
	return text.String()
}
