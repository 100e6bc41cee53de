package models

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// Insert writes rows, a slice or a pointer, as a test's own hand on the database.
func (s *Store) Insert(ctx context.Context, rows any) error {
	return s.db.WithContext(ctx).Create(rows).Error
}

// Statements is what a store sent to its database, with the values filled in.
type Statements struct {
	logger.Interface
	mu   sync.Mutex
	sent []string
}

// Observe makes the store tell what it sends from now on. Not safe beside other uses of the store.
func (s *Store) Observe() *Statements {
	seen := &Statements{Interface: logger.Discard}
	s.db = s.db.Session(&gorm.Session{Logger: seen})
	s.reads = s.reads.Session(&gorm.Session{Logger: seen})
	return seen
}

// Trace implements logger.Interface.
func (l *Statements) Trace(_ context.Context, _ time.Time, fc func() (string, int64), _ error) {
	sql, _ := fc()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, sql)
}

// Take gives the statements since the last call.
func (l *Statements) Take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

// Explain gives the plan of a statement, on Postgres with sorts and whole scans discouraged: what is
// left of them has no index that could do it.
func (s *Store) Explain(ctx context.Context, statement string) (string, error) {
	var plan []string
	if s.dialect == DialectSQLite {
		var steps []struct{ Detail string }
		err := s.reads.WithContext(ctx).Raw("EXPLAIN QUERY PLAN " + statement).Scan(&steps).Error
		for _, step := range steps {
			plan = append(plan, step.Detail)
		}
		return strings.Join(plan, "\n"), err
	}
	err := s.transaction(ctx, func(tx *gorm.DB) error {
		for _, setting := range []string{"enable_seqscan", "enable_sort", "enable_bitmapscan"} {
			if err := tx.Exec("SET LOCAL " + setting + " = off").Error; err != nil {
				return err
			}
		}
		return tx.Raw("EXPLAIN " + statement).Scan(&plan).Error
	})
	return strings.Join(plan, "\n"), err
}

// FirstID is what ids made at t or later sort after.
func FirstID(prefix string, t time.Time) string { return firstID(prefix, t) }

// Add counts n of a measure.
func (c *Counts) Add(measure, n int) { c.add(measure, n) }

// Begin gives a transaction as a test's own hand on the database.
func (s *Store) Begin(ctx context.Context) (*sql.Tx, error) { return s.main.BeginTx(ctx, nil) }
