package models

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// The names that Store.Dialect gives.
const (
	DialectPostgres = "postgres"
	DialectSQLite   = "sqlite"
)

// Bounds of Options that are zero.
const (
	defaultStatementTimeout = 2 * time.Second
	defaultWorkTimeout      = 10 * time.Second
	defaultMaxConns         = 16
	defaultSQLitePath       = "data/webhooks.db"
)

// Options says which database to open, and how long to wait for it.
type Options struct {
	// DSN is a postgres:// URL, or the path of a SQLite file, which is created with its folder
	// where it does not exist. Empty: data/webhooks.db.
	DSN string
	// Logger is required. It hears of databases that went away, never of data.
	Logger *slog.Logger
	// MaxConns bounds the connections for callers and sweeps. Event commits and records have a
	// quarter as many of their own, and so have claims.
	// On SQLite it bounds the readers, there is one writer always. Zero: 16.
	MaxConns int
	// StatementTimeout bounds each operation on behalf of a caller, waiting for a connection
	// included. Zero: 2 s.
	StatementTimeout time.Duration
	// WorkTimeout bounds each operation of workers and sweeps, which nobody waits for. Zero: 10 s.
	WorkTimeout time.Duration
}

// Store is the database. It is safe for concurrent use. Its methods see all tenants; what serves
// callers goes through Tenant.
//
// A method that cannot reach the database, or not in time, answers with *UnavailableError.
type Store struct {
	log     *slog.Logger
	dialect string
	timeout time.Duration
	work    time.Duration
	// shard keeps the statistics of this process off the rows of another's (see delivery_minutes).
	shard int16

	main    *sql.DB // Postgres: the plain pool; SQLite: the one writing connection
	hot     *sql.DB // Postgres: for event commits and records; SQLite: main
	relaxed *sql.DB // Postgres: for claims, synchronous_commit off; SQLite: main
	readers *sql.DB // Postgres: main; SQLite: connections that cannot write
	db      *gorm.DB
	reads   *gorm.DB
	stmts   *statements // SQLite: prepared statements of main
	turns   turns       // SQLite: who uses main
	logSync *logSync    // SQLite: makes commits last
	// checkpoints copies SQLite's log to its file.
	checkpoints *checkpointer
	unlock      func() error
	gate        gate
	claimsRead  int // what ExpireClaims looks through at a time
	// migrating is how Migrate connects to Postgres: without the bounds on statements.
	migrating *pgx.ConnConfig
	feed      feedSignal
	said      atomic.Pointer[clockReading] // Postgres: the best look at its clock
	closed    atomic.Bool
}

// Open connects to the database that opts names. It does not migrate it. A Postgres that is away
// is no error here: the first use says so. A SQLite file that another process has open is one.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Logger == nil {
		return nil, errors.New("open store: no logger")
	}
	if opts.StatementTimeout <= 0 {
		opts.StatementTimeout = defaultStatementTimeout
	}
	if opts.WorkTimeout <= 0 {
		opts.WorkTimeout = defaultWorkTimeout
	}
	if opts.MaxConns <= 0 {
		opts.MaxConns = defaultMaxConns
	}
	var shard [1]byte
	if _, err := rand.Read(shard[:]); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		log: opts.Logger, timeout: opts.StatementTimeout, work: opts.WorkTimeout,
		claimsRead: defaultClaimsRead,
		shard:      int16(shard[0]), unlock: func() error { return nil },
	}
	open := s.openSQLite
	if isPostgres(opts.DSN) {
		open = s.openPostgres
	}
	if err := open(ctx, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.Close())
	}
	return s, nil
}

func isPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// gormOver is GORM on an open pool. It logs nothing: errors go to the caller, and statements hold
// data.
func gormOver(dialector gorm.Dialector) (*gorm.DB, error) {
	return gorm.Open(dialector, &gorm.Config{
		Logger:                 logger.Discard,
		SkipDefaultTransaction: true,
		DisableAutomaticPing:   true,
		TranslateError:         false,
		NowFunc:                func() time.Time { return Instant(time.Now()) },
	})
}

// Close closes every connection and frees the SQLite file. Operations that run are waited for.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var errs []error
	if s.checkpoints != nil {
		errs = append(errs, s.checkpoints.close())
	}
	if s.logSync != nil {
		errs = append(errs, s.logSync.close())
	}
	if s.stmts != nil {
		errs = append(errs, s.stmts.close())
	}
	if s.readers != nil && s.readers != s.main {
		errs = append(errs, s.readers.Close())
	}
	for _, pool := range []*sql.DB{s.hot, s.relaxed} {
		if pool != nil && pool != s.main {
			errs = append(errs, pool.Close())
		}
	}
	if s.main != nil {
		errs = append(errs, s.main.Close())
	}
	errs = append(errs, s.unlock())
	return errors.Join(errs...)
}

// Dialect is DialectPostgres or DialectSQLite.
func (s *Store) Dialect() string { return s.dialect }

// Ping asks the database for an answer, within StatementTimeout.
func (s *Store) Ping(ctx context.Context) error {
	return s.reading(ctx, func(db *gorm.DB) error { return db.Exec("SELECT 1").Error })
}

// Now is the database's clock, which decides what is due.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := s.reading(ctx, func(db *gorm.DB) error {
		var err error
		now, err = s.clock(db)
		return err
	})
	return now, err
}

// reading runs fn, which only reads, on behalf of a caller. fn may run more than once.
func (s *Store) reading(ctx context.Context, fn func(db *gorm.DB) error) error {
	return s.retry(ctx, s.timeout, func(ctx context.Context) error { return fn(s.reads.WithContext(ctx)) })
}

// writing runs fn in a transaction, on behalf of a caller. fn may run more than once, each time in
// a transaction of its own.
func (s *Store) writing(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return s.retry(ctx, s.timeout, func(ctx context.Context) error { return s.transaction(ctx, fn) })
}

// working is writing for workers and sweeps, with their longer bound.
func (s *Store) working(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return s.retry(ctx, s.work, func(ctx context.Context) error { return s.transaction(ctx, fn) })
}

func (s *Store) transaction(ctx context.Context, fn func(tx *gorm.DB) error) error {
	ctx, mark := withFeedMark(ctx)
	if err := s.commit(ctx, fn); err != nil {
		return err
	}
	if err := s.onDisk(); err != nil {
		return err
	}
	if mark.written {
		s.feed.notify()
	}
	return nil
}

func (s *Store) commit(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if s.dialect == DialectSQLite {
		if err := s.turns.take(ctx, false); err != nil {
			return err
		}
		defer s.turns.pass()
	}
	tx := s.db.WithContext(ctx).Begin()
	if tx.Error != nil {
		return tx.Error
	}
	committed := false
	defer func() {
		if !committed {
			tx.Rollback() // after an error or a panic; its own error adds nothing
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	committed = true
	err := tx.Commit().Error
	if s.logSync != nil {
		s.logSync.committed()
	}
	if err != nil {
		return &commitError{err}
	}
	return nil
}
