package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
)

// configLock is the advisory lock that orders config changes (exclusive) against event commits
// and claims (shared).
const configLock = 0x776562686f6f6b // "webhook"

// CheckURL says what is wrong with the parameters of a Postgres URL, quoting no part of it that may
// hold a password.
func CheckURL(dsn string) error {
	_, err := pgx.ParseConfig(dsn)
	if err == nil {
		return nil
	}
	// The library names the URL in front of the reason, and does not mask each password in it.
	reason := err.Error()
	if at := strings.LastIndex(reason, "`: "); at >= 0 {
		return fmt.Errorf("is not valid: %s", reason[at+len("`: "):])
	}
	return errors.New("is not valid: expected postgres://user:password@host:port/database")
}

// openPostgres opens the three pools. The hot ones run a handful of statements that find rows by
// their keys, and have a connection when callers hold all others. The relaxed one of them does not
// wait for the disk at commit: a claim that a crash of the server forgets was not recorded either,
// so the delivery is due again.
func (s *Store) openPostgres(_ context.Context, opts Options) error {
	s.dialect = DialectPostgres
	config, err := pgx.ParseConfig(opts.DSN)
	if err != nil {
		return fmt.Errorf("parse database URL: %w", err)
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > s.timeout {
		config.ConnectTimeout = s.timeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "webhooks"
	}
	config.RuntimeParams["timezone"] = "UTC"
	s.migrating = config.Copy()
	// A process that was stopped inside a transaction must not hold its locks for ever.
	config.RuntimeParams["idle_in_transaction_session_timeout"] = milliseconds(s.work)
	// Cancelling is the context's; this is for a client that is gone without a word.
	config.RuntimeParams["statement_timeout"] = milliseconds(2 * s.work)
	// A plan that is kept goes on as the tables were when it was made, until their statistics are:
	// after a burst pages would be read by walks over all of it. A new one looks at their size.
	config.RuntimeParams["plan_cache_mode"] = "force_custom_plan"
	s.main = openPool(config.Copy(), opts.MaxConns)
	s.readers = s.main
	// Their statements have one good plan each, and making it anew costs more than they do. But it
	// is made once: without statistics, on tables that are still small, it would read them whole,
	// and go on doing so while they grow.
	config.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	config.RuntimeParams["enable_seqscan"] = "off"
	config.RuntimeParams["jit"] = "off"
	s.hot = openPool(config.Copy(), max(2, opts.MaxConns/4))
	config.RuntimeParams["synchronous_commit"] = "off"
	s.relaxed = openPool(config, max(2, opts.MaxConns/4))
	s.db, err = gormOver(postgres.New(postgres.Config{Conn: s.main}))
	s.reads = s.db
	return err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func openPool(config *pgx.ConnConfig, conns int) *sql.DB {
	pool := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		return nil
	}))
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	return pool
}
