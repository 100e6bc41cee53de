package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/gorm"
)

// pgSession is one connection of a pool, held for some statements that belong together. Batches
// go out in one packet and are answered in one: that is what the hot path is made of. pgx keeps
// the statements prepared.
type pgSession struct{ conn *sql.Conn }

// pgDo runs fn with a connection. A transaction that fn leaves open is rolled back.
func (s *Store) pgDo(ctx context.Context, pool *sql.DB, fn func(p *pgSession) error) error {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	p := &pgSession{conn}
	defer func() {
		// Both report nothing that fn's error does not say.
		_ = conn.Raw(func(raw any) error { return tidy(ctx, raw) })
		_ = conn.Close()
	}()
	return fn(p)
}

// tidy makes a connection fit for its next user. One that cannot be is thrown away.
func tidy(ctx context.Context, raw any) error {
	std, ok := raw.(*stdlib.Conn)
	if !ok || std.Conn().IsClosed() {
		return driver.ErrBadConn
	}
	if std.Conn().PgConn().TxStatus() == 'I' {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := std.Conn().Exec(ctx, "ROLLBACK"); err != nil {
		return driver.ErrBadConn
	}
	return nil
}

// send sends a batch and hands each answer to the function that was queued with it. Without BEGIN
// in it, a batch is one transaction that commits with its last statement.
func (p *pgSession) send(ctx context.Context, batch *pgx.Batch) error {
	_, err := p.sendOn(ctx, batch)
	return err
}

// commit is send for a batch that ends with COMMIT. Its error is a commitError where nobody can
// tell whether the transaction took effect.
func (p *pgSession) commit(ctx context.Context, batch *pgx.Batch) error {
	closed, err := p.sendOn(ctx, batch)
	if err == nil || pgconn.SafeToRetry(err) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		closed = strings.HasPrefix(pg.Code, "57P0")
	}
	if closed {
		return &commitError{err}
	}
	return err
}

func (p *pgSession) sendOn(ctx context.Context, batch *pgx.Batch) (closed bool, err error) {
	failed := p.conn.Raw(func(raw any) error {
		std, ok := raw.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", raw)
		}
		err = std.Conn().SendBatch(ctx, batch).Close()
		closed = std.Conn().IsClosed()
		return nil // a broken connection is tidy's to throw away
	})
	if err == nil {
		err = failed
	}
	return closed, err
}

// gorm is GORM on this connection, within the transaction that a batch began.
func (p *pgSession) gorm(ctx context.Context, db *gorm.DB) *gorm.DB {
	session := db.Session(&gorm.Session{NewDB: true, Context: ctx, SkipDefaultTransaction: true})
	session.Statement.ConnPool = p.conn
	return session
}

// micros is d as the parameter of an interval counted in microseconds.
func micros(d time.Duration) int64 { return d.Microseconds() }
