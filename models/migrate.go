package models

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations
var migrations embed.FS

// migrationLock is the session lock that one migrating process holds in Postgres. The server
// frees it when the process dies.
const migrationLock int64 = 0x77656d6967 // "wemig"

// LockedError says that another process has the SQLite file open.
type LockedError struct {
	Path string // of the database
}

func (e *LockedError) Error() string {
	return "database " + e.Path + " is in use by another process (it holds " + e.Path +
		".lock); stop it, choose another DATA_DIR, or set DATABASE_URL for more than one process"
}

// SchemaError says that the tables are not those that this program was built for.
type SchemaError struct {
	Have, Want int64
}

func (e *SchemaError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("database schema %d is newer than this program, which knows %d", e.Have, e.Want)
	}
	return fmt.Sprintf("database schema is %d, this program needs %d: run migrate", e.Have, e.Want)
}

// Migrate brings the tables to the form that this program was built for. It may run in many
// processes at once: one works, the others wait. Each migration is one transaction, so that a
// process that dies leaves the database at one or the other version.
func (s *Store) Migrate(ctx context.Context) error {
	db := s.main
	if s.migrating != nil {
		db = openPool(s.migrating.Copy(), 2)
		defer func() { _ = db.Close() }()
	}
	provider, err := s.provider(db)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return s.classify(ctx, ctx, fmt.Errorf("migrate: %w", err))
	}
	for _, r := range results {
		s.log.InfoContext(ctx, "database migrated", slog.Int64("version", r.Source.Version), slog.Duration("took", r.Duration))
	}
	return nil
}

// CheckMigrated answers with *SchemaError where the tables are older than this program. Newer
// ones are fine: the next version may have migrated already during a rolling restart.
func (s *Store) CheckMigrated(ctx context.Context) error {
	provider, err := s.provider(s.readers)
	if err != nil {
		return fmt.Errorf("check migrations: %w", err)
	}
	want := int64(0)
	for _, source := range provider.ListSources() {
		want = max(want, source.Version)
	}
	have := int64(0)
	err = s.retry(ctx, s.timeout, func(ctx context.Context) error {
		// Read by hand: goose would make its table where there is none.
		return s.readers.QueryRowContext(ctx,
			"SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&have)
	})
	switch {
	case noTable(err):
		return &SchemaError{Have: 0, Want: want}
	case err != nil:
		return fmt.Errorf("check migrations: %w", err)
	case have < want:
		return &SchemaError{Have: have, Want: want}
	}
	return nil
}

// noTable reports whether err says that a table does not exist. SQLite has no code of its own for
// that, but the statement above can be wrong in no other way.
func noTable(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "42P01"
	}
	return isSQLiteError(err)
}

func (s *Store) provider(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+s.dialect)
	if err != nil {
		return nil, err
	}
	options := []goose.ProviderOption{goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true)}
	dialect := goose.DialectSQLite3
	if s.dialect == DialectPostgres {
		dialect = goose.DialectPostgres
		// Tried each second, for five minutes: a migration may rewrite a large table.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 300))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect, db, files, options...)
}
