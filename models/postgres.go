package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
)

// configLock is the advisory lock that orders config changes (exclusive) against event commits
// and claims (shared).
const configLock = 0x776562686f6f6b // "webhook"

// openPostgres opens both pools. The relaxed one does not wait for the disk at commit: a claim
// that a crash of the server forgets was not recorded either, so the delivery is due again.
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
	// A process that was stopped inside a transaction must not hold its locks for ever.
	config.RuntimeParams["idle_in_transaction_session_timeout"] = milliseconds(s.work)
	// Cancelling is the context's; this is for a client that is gone without a word.
	config.RuntimeParams["statement_timeout"] = milliseconds(2 * s.work)
	config.RuntimeParams["timezone"] = "UTC"
	s.main = openPool(config.Copy(), opts.MaxConns)
	s.readers = s.main
	config.RuntimeParams["synchronous_commit"] = "off"
	s.relaxed = openPool(config, max(2, opts.MaxConns/2))
	s.db, err = gormOver(postgres.New(postgres.Config{Conn: s.main}))
	s.reads = s.db
	return err
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

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

// pgConn runs fn with a connection of pool. A transaction that fn leaves open is rolled back; a
// connection that cannot even do that is thrown away.
func pgConn(ctx context.Context, pool *sql.DB, fn func(session *sql.Conn, conn *pgx.Conn) error) error {
	session, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	var out error
	err = session.Raw(func(raw any) error {
		std, ok := raw.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", raw)
		}
		conn := std.Conn()
		out = fn(session, conn)
		if conn.IsClosed() {
			return driver.ErrBadConn
		}
		if conn.PgConn().TxStatus() != 'I' {
			if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
				return driver.ErrBadConn
			}
		}
		return nil
	})
	if out != nil {
		return out
	}
	// What fn did has worked; a connection that closed after it is the pool's business.
	if errors.Is(err, driver.ErrBadConn) {
		return nil
	}
	return err
}
