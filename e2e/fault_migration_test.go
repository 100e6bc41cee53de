package e2e

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/internal/testenv"
)

// schemas tell one version of the tables from another.
type schemas struct {
	driver, shape string // the database/sql driver, and what a schema looks like
	files         string
	dialect       goose.Dialect
}

var (
	postgresSchemas = schemas{
		driver: "pgx", files: "../models/migrations/postgres", dialect: goose.DialectPostgres,
		shape: `SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (
			SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS line
			FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'goose_db_version'
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'goose_db_version') AS lines`,
	}
	sqliteSchemas = schemas{
		driver: "sqlite", files: "../models/migrations/sqlite", dialect: goose.DialectSQLite3,
		shape: `SELECT coalesce(group_concat(sql, char(10)), '') FROM (SELECT sql FROM sqlite_master
			WHERE name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%' ORDER BY type, name)`,
	}
)

// of reads how the tables look and which version they say that they are.
func (s schemas) of(t *testing.T, dsn string) (version int64, shape string) {
	t.Helper()
	db, err := sql.Open(s.driver, dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, db.QueryRowContext(t.Context(), s.shape).Scan(&shape))
	err = db.QueryRowContext(t.Context(), "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&version)
	if err != nil {
		// There is no such table yet, and then there is none at all.
		require.Empty(t, shape, "tables without a version: %v", err)
	}
	return version, shape
}

// all are the shapes of every version, made in an empty database.
func (s schemas) all(t *testing.T, dsn string) []string {
	t.Helper()
	db, err := sql.Open(s.driver, dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	provider, err := goose.NewProvider(s.dialect, db, os.DirFS(s.files))
	require.NoError(t, err)
	shapes := []string{""}
	for _, source := range provider.ListSources() {
		_, err := provider.UpTo(t.Context(), source.Version)
		require.NoError(t, err)
		version, shape := s.of(t, dsn)
		require.EqualValues(t, len(shapes), version)
		shapes = append(shapes, shape)
	}
	return shapes
}

// Two processes migrate, and both are killed at a statement of theirs, which the database gets or
// does not get: the lock is free then, what is there is one version or another and nothing between,
// and the next start completes it.
func TestFault06_KilledDuringMigration(t *testing.T) {
	t.Parallel()
	t.Run("production", func(t *testing.T) {
		t.Parallel()
		shapes := postgresSchemas.all(t, testenv.PostgresURL(t))
		env := apptest.Environment(t, apptest.Production)
		// migrating starts a process that is killed at its nth packet to the database; 0: at none.
		migrating := func(url string, n int64, verdict testenv.Verdict, role string) (p *process, packets func() int64) {
			proxy := testenv.NewProxy(t, url)
			var sent atomic.Int64
			var started sync.WaitGroup
			started.Add(1)
			proxy.SetHook(func(_ int, direction testenv.Direction, _ []byte) testenv.Verdict {
				if direction == testenv.ToServer && sent.Add(1) == n {
					started.Wait()
					p.signal(syscall.SIGKILL)
					return verdict
				}
				return testenv.Pass
			})
			p = start(t, with(env, map[string]string{"DATABASE_URL": proxy.URL(url)}), role)
			started.Done()
			return p, sent.Load
		}
		p, packets := migrating(testenv.PostgresURL(t), 0, testenv.Pass, "migrate")
		require.Zero(t, p.wait())
		all := packets()
		t.Logf("a migration is %d packets", all)
		rounds := either(5, all)
		for round := range rounds {
			url := testenv.PostgresURL(t)
			// Spread evenly, at a random place of each part: over all runs, every statement.
			first := 1 + round*all/rounds + rand.Int64N(max(1, all/rounds))
			second := 1 + rand.Int64N(all)
			verdict := []testenv.Verdict{testenv.Pass, testenv.ResetBefore}[rand.IntN(2)]
			a, _ := migrating(url, first, verdict, "migrate")
			b, _ := migrating(url, second, verdict, "api")
			<-a.done
			serving := func() bool { return strings.Contains(b.stderr.String(), `"msg":"serving"`) }
			apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
				return b.ended() || serving(), "the other neither ended nor serves"
			})
			if b.ended() {
				// What the dead have sent is still worked on, and ends.
				db, err := sql.Open("pgx", url)
				require.NoError(t, err)
				apptest.Eventually(t, func() (bool, string) {
					var others int
					require.NoError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity
						WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&others))
					return others == 0, fmt.Sprintf("%d sessions of the dead are left", others)
				})
				require.NoError(t, db.Close())
			}
			version, shape := postgresSchemas.of(t, url)
			require.Equal(t, shapes[version], shape, "killed at packets %d and %d: half-way to version %d", first, second, version+1)
			if serving() {
				require.EqualValues(t, len(shapes)-1, version, "it serves")
			}
			began := time.Now()
			last := start(t, with(env, map[string]string{"DATABASE_URL": url}), "api")
			last.url()
			version, shape = postgresSchemas.of(t, url)
			require.EqualValues(t, len(shapes)-1, version)
			require.Equal(t, shapes[version], shape)
			t.Logf("killed at packets %d and %d: the next serves after %s", first, second, time.Since(began).Round(time.Millisecond))
			last.stop()
			b.kill()
		}
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		shapes := sqliteSchemas.all(t, filepath.Join(t.TempDir(), "reference.db"))
		env := apptest.Environment(t, apptest.Embedded)
		in := func(dir string) map[string]string { return with(env, map[string]string{"DATA_DIR": dir}) }
		began := time.Now()
		require.Zero(t, start(t, in(t.TempDir()), "migrate").wait())
		takes := time.Since(began)
		found := map[int64]int{}
		for range either(8, 200) {
			dir := t.TempDir()
			file := filepath.Join(dir, "webhooks.db")
			for range 2 {
				p := start(t, in(dir), "serve")
				after := time.NewTimer(rand.N(takes))
				select {
				case <-after.C:
				case <-p.done:
				}
				p.kill()
				if _, err := os.Stat(file); err != nil {
					continue // it had not come that far
				}
				version, shape := sqliteSchemas.of(t, file)
				require.Equal(t, shapes[version], shape, "half-way to version %d", version+1)
				if strings.Contains(p.stderr.String(), `"msg":"serving"`) {
					require.EqualValues(t, len(shapes)-1, version)
				}
				found[version]++
			}
			last := start(t, in(dir), "serve")
			last.url()
			version, shape := sqliteSchemas.of(t, file)
			require.EqualValues(t, len(shapes)-1, version)
			require.Equal(t, shapes[version], shape)
			last.stop()
		}
		t.Logf("%s a migration, killed at versions %v", takes.Round(time.Millisecond), found)
	})
}

// A process that migrates loses its connection at a statement, which the database gets or does not
// get: it tries again and serves, with nobody to start it again.
func TestFault06_ConnectionLostDuringMigration(t *testing.T) {
	t.Parallel()
	shapes := postgresSchemas.all(t, testenv.PostgresURL(t))
	env := apptest.Environment(t, apptest.Production)
	// migrating starts a process that loses its connection at its nth packet; 0: at none.
	migrating := func(url string, n int64, verdict testenv.Verdict, role string) (p *process, packets *atomic.Int64) {
		proxy := testenv.NewProxy(t, url)
		packets = &atomic.Int64{}
		proxy.SetHook(func(_ int, direction testenv.Direction, _ []byte) testenv.Verdict {
			if direction == testenv.ToServer && packets.Add(1) == n {
				return verdict
			}
			return testenv.Pass
		})
		return start(t, with(env, map[string]string{"DATABASE_URL": proxy.URL(url)}), role), packets
	}
	p, packets := migrating(testenv.PostgresURL(t), 0, testenv.Pass, "migrate")
	require.Zero(t, p.wait())
	all := packets.Load()
	rounds := either(2, all)
	for round := range rounds {
		url := testenv.PostgresURL(t)
		at := 1 + round*all/rounds + rand.Int64N(max(1, all/rounds))
		verdict := []testenv.Verdict{testenv.ResetBefore, testenv.ResetAfter}[rand.IntN(2)]
		p, _ := migrating(url, at, verdict, "api")
		p.url()
		version, shape := postgresSchemas.of(t, url)
		require.EqualValues(t, len(shapes)-1, version, "connection lost at packet %d", at)
		require.Equal(t, shapes[version], shape, "connection lost at packet %d", at)
		p.stop()
	}
}
