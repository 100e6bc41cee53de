package models

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"gorm.io/gorm"
)

// liteKind is how a transaction on SQLite's writing connection waits.
type liteKind int

const (
	liteUsual   liteKind = iota
	liteUrgent           // commits events: goes first, see turns
	liteRelaxed          // does not wait for the disk; the next that does takes it along
)

// sqliteTx runs fn in a transaction on the one writing connection.
func (s *Store) sqliteTx(ctx context.Context, kind liteKind, fn func(tx *liteTx) error) error {
	missing, err := s.sqliteOnce(ctx, kind, fn)
	if err != nil {
		return err
	}
	s.stmts.prepare(ctx, missing)
	if kind == liteRelaxed {
		return nil
	}
	return s.onDisk()
}

// onDisk returns when everything that was committed by now survives a power cut: at once on
// Postgres, which sees to that itself.
func (s *Store) onDisk() error {
	if s.logSync == nil {
		return nil
	}
	if err := s.logSync.wait(); err != nil {
		return &commitError{err}
	}
	return nil
}

func (s *Store) sqliteOnce(ctx context.Context, kind liteKind, fn func(tx *liteTx) error) (missing []string, err error) {
	if err := s.turns.take(ctx, kind == liteUrgent); err != nil {
		return nil, err
	}
	defer s.turns.pass()
	tx, err := s.main.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // nothing is left to do after a commit
	lite := &liteTx{ctx: ctx, tx: tx, shared: s.stmts, own: map[string]*sql.Stmt{}, now: Instant(time.Now())}
	lite.db = s.db.Session(&gorm.Session{NewDB: true, Context: ctx, SkipDefaultTransaction: true})
	lite.db.Statement.ConnPool = tx
	if err := fn(lite); err != nil {
		return nil, err
	}
	err = tx.Commit()
	if kind != liteRelaxed {
		s.logSync.committed() // even after an error: it may be there all the same
	}
	if err != nil {
		return nil, &commitError{err}
	}
	return lite.missing, nil
}

// liteTx is a transaction on the writing connection whose statements stay prepared.
type liteTx struct {
	ctx     context.Context //nolint:containedctx // lives as long as the transaction that it belongs to
	tx      *sql.Tx
	db      *gorm.DB  // the same transaction, for what is not hot
	now     time.Time // when it began, which is when it got the only lock that there is
	shared  *statements
	own     map[string]*sql.Stmt
	missing []string
}

func (t *liteTx) stmt(text string) (*sql.Stmt, error) {
	if stmt := t.own[text]; stmt != nil {
		return stmt, nil
	}
	var stmt *sql.Stmt
	if prepared := t.shared.get(text); prepared != nil {
		stmt = t.tx.StmtContext(t.ctx, prepared)
	} else {
		// The pool has one connection and this transaction holds it: prepared for all only after it.
		var err error
		if stmt, err = t.tx.PrepareContext(t.ctx, text); err != nil {
			return nil, err
		}
		t.missing = append(t.missing, text)
	}
	t.own[text] = stmt
	return stmt, nil
}

func (t *liteTx) exec(text string, args ...any) (changed int64, err error) {
	stmt, err := t.stmt(text)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// query calls each for every row, with the row to scan.
func (t *liteTx) query(each func(row *sql.Rows) error, text string, args ...any) error {
	stmt, err := t.stmt(text)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(t.ctx, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// statements keeps what the hot path has prepared on the writing connection. Their texts are
// constants of this package, so they are few.
type statements struct {
	db     *sql.DB
	mu     sync.Mutex
	byText map[string]*sql.Stmt
}

func (s *statements) get(text string) *sql.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byText[text]
}

// prepare keeps texts prepared from now on. One that cannot be is tried again after its next use.
func (s *statements) prepare(ctx context.Context, texts []string) {
	for _, text := range texts {
		stmt, err := s.db.PrepareContext(ctx, text)
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.byText[text] == nil {
			s.byText[text], stmt = stmt, nil
		}
		s.mu.Unlock()
		if stmt != nil {
			_ = stmt.Close() // another transaction was first
		}
	}
}

func (s *statements) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, stmt := range s.byText {
		errs = append(errs, stmt.Close())
	}
	clear(s.byText)
	return errors.Join(errs...)
}
