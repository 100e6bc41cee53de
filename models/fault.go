package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// maxTries bounds how often a transaction runs that another one made fail.
const maxTries = 3

// commitError is an error of COMMIT itself. Where the connection broke, nobody knows whether the
// transaction took effect.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// retry runs fn within timeout, again where a conflict with another transaction or a broken
// connection undid it before its commit, and classes what comes out.
func (s *Store) retry(ctx context.Context, timeout time.Duration, fn func(ctx context.Context) error) error {
	if !s.gate.enter(time.Now()) {
		return &UnavailableError{Err: errSilent}
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for try := 1; ; try++ {
		err := fn(bounded)
		s.gate.leave(errors.Is(bounded.Err(), context.DeadlineExceeded) && err != nil)
		if err == nil {
			return nil
		}
		if try == maxTries || bounded.Err() != nil || !undone(err) {
			return s.classify(ctx, bounded, err)
		}
		select {
		case <-bounded.Done():
			return s.classify(ctx, bounded, err)
		case <-time.After(time.Duration(try*5+rand.IntN(15)) * time.Millisecond): //nolint:gosec // jitter
		}
	}
}

// errSilent is what an operation hears that did not even try.
var errSilent = errors.New("the database has not answered for a while")

// A database that takes connections and never answers would have every caller wait for its whole
// timeout, and pile them up. After so many timeouts with nothing but timeouts between them, one
// operation in each interval is let through to find out, and the others hear at once.
const (
	silentAfter   = 8
	probeInterval = 250 * time.Millisecond
)

// gate counts timeouts in a row. It is safe for concurrent use.
type gate struct {
	timeouts atomic.Int32
	next     atomic.Int64 // when the next one may try, Unix ns
}

func (g *gate) enter(now time.Time) bool {
	if g.timeouts.Load() < silentAfter {
		return true
	}
	next := g.next.Load()
	return now.UnixNano() >= next && g.next.CompareAndSwap(next, now.Add(probeInterval).UnixNano())
}

func (g *gate) leave(timedOut bool) {
	switch {
	case timedOut:
		g.timeouts.Add(1)
	case g.timeouts.Load() > 0:
		g.timeouts.Store(0)
	}
}

// classify turns what the database said into what callers understand: their own cancellation,
// UnavailableError, or the error as it is.
func (s *Store) classify(outer, bounded context.Context, err error) error {
	var known *UnavailableError
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(outer.Err(), context.Canceled):
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	var commit *commitError
	atCommit := errors.As(err, &commit)
	if s.closed.Load() || bounded.Err() != nil || unavailable(err) {
		return &UnavailableError{Err: err, OutcomeUnknown: atCommit && !answered(err)}
	}
	return err
}

// undone reports whether err means that a transaction left nothing behind and may work if tried
// again at once.
func undone(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return conflict(pg.Code) || (strings.HasPrefix(pg.Code, "57P0") && !atCommit(err))
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false // it is away, not gone: the caller hears so at once
	}
	return broken(err) && !atCommit(err)
}

func atCommit(err error) bool {
	var commit *commitError
	return errors.As(err, &commit)
}

// conflict reports a serialization failure or a deadlock.
func conflict(code string) bool { return code == "40001" || code == "40P01" }

// answered reports whether the database itself said that the transaction failed. A server that
// is shutting down may say so after the commit took effect.
func answered(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return !strings.HasPrefix(pg.Code, "57P0") && !strings.HasPrefix(pg.Code, "08")
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff != sqlite3.SQLITE_IOERR
}

// unavailable reports whether err is the database's own trouble: away, full, read-only or too slow.
func unavailable(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "25006", // read-only
			"55P03",                   // lock not available
			"57014",                   // statement cancelled by a timeout
			"58030",                   // I/O error
			"25P03", "25P04", "3D000": // idle in transaction, transaction timeout, no such database
			return true
		}
		switch pg.Code[:min(2, len(pg.Code))] {
		case "08", "28", "40", "53", "58", "XX": // connection, login, conflict after retries, resources, system, internal
			return true
		}
		return strings.HasPrefix(pg.Code, "57P0")
	}
	if lite, ok := errors.AsType[*sqlite.Error](err); ok && !errors.Is(err, errNotSynced) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT,
			sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
			sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return true
		}
		return false
	}
	return broken(err) || errors.Is(err, errNotSynced) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// broken reports whether the connection is gone, or could not be made.
func broken(err error) bool {
	var network net.Error
	var connecting *pgconn.ConnectError
	return errors.As(err, &network) || errors.As(err, &connecting) || pgconn.SafeToRetry(err) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// taken reports whether err is a violation of a unique index.
func taken(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) &&
		(lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// isSQLiteError reports SQLite's generic error: a statement that it cannot make sense of.
func isSQLiteError(err error) bool {
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code() == sqlite3.SQLITE_ERROR
}
