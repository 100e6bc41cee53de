package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// SelectColumns reads every column that GORM knows of table by its name.
func (s *Store) SelectColumns(ctx context.Context, table any) error {
	stmt := &gorm.Statement{DB: s.reads}
	if err := stmt.Parse(table); err != nil {
		return err
	}
	var columns []string
	for _, field := range stmt.Schema.Fields {
		if field.DataType != schema.DataType("") && field.DBName != "" {
			columns = append(columns, field.DBName)
		}
	}
	return s.reads.WithContext(ctx).Select(columns).Limit(1).Find(table).Error
}

// DeliveryCursor is the cursor of the delivery with this id in the list of parent.
func DeliveryCursor(parent, id string) string {
	l := byID("deliveries", parent, PrefixDelivery, deliveryID)
	return l.cursor(id)
}

// ParseDeliveryCursor takes the id out of such a cursor.
func ParseDeliveryCursor(parent, cursor string) (string, error) {
	l := byID("deliveries", parent, PrefixDelivery, deliveryID)
	key, err := l.parse(&cursor)
	if err != nil {
		return "", err
	}
	return *key, nil
}

// FeedCursors are cursors of every form.
func FeedCursors() []string {
	plain := FeedPosition{feed: "postgres", at: time.UnixMicro(1_700_000_000_000_000).UTC(), seq: 7, done: 2, snap: snapshot{max: 9, running: []int64{3, 5}}}
	late := plain
	late.late = &latePart{seq: 4, done: 1, snap: snapshot{max: 12}}
	return []string{plain.Cursor(FeedEvent), plain.Cursor(FeedDelivery), late.Cursor(FeedEvent), late.Cursor(FeedDelivery)}
}

// Exec runs a statement as a test's own hand on the database.
func (s *Store) Exec(ctx context.Context, text string, args ...any) error {
	return s.db.WithContext(ctx).Exec(text, args...).Error
}

// ReadClaims sets how many due deliveries ExpireClaims looks through at a time.
func (s *Store) ReadClaims(n int) { s.claimsRead = n }

// Count reads one number.
func (s *Store) Count(ctx context.Context, text string, args ...any) (int, error) {
	var n int
	err := s.reads.WithContext(ctx).Raw(text, args...).Row().Scan(&n)
	return n, err
}

// WriteThrough replaces the one connection that writes to the SQLite file at path by what through
// makes of its driver.
func (s *Store) WriteThrough(path string, through func(d driver.Driver, dsn string) driver.Connector) error {
	d := s.main.Driver()
	err := errors.Join(s.stmts.close(), s.main.Close())
	s.main = sql.OpenDB(through(d, sqliteDSN(path, "_txlock=immediate")))
	s.main.SetMaxOpenConns(1)
	s.main.SetMaxIdleConns(1)
	s.hot, s.relaxed = s.main, s.main
	s.stmts = &statements{db: s.main, byText: map[string]*sql.Stmt{}}
	gorm, opened := gormOver(sqliteDialector{s.main})
	s.db = gorm
	return errors.Join(err, opened)
}

// Log is how many pages SQLite's log holds, and how many of them the database file has.
func (s *Store) Log(ctx context.Context) (length, copied int, err error) {
	var busy int
	err = s.readers.QueryRowContext(ctx, "PRAGMA wal_checkpoint(NOOP)").Scan(&busy, &length, &copied)
	return length, copied, err
}

// LongLog is the length from which on the log begins anew though somebody writes all the time, and
// AutoCheckpoint the one at which SQLite would see to it.
const (
	LongLog        = longLog
	AutoCheckpoint = autoCheckpoint
)

// OnFlush replaces what puts SQLite's log on the disk. Nobody may commit meanwhile.
func (s *Store) OnFlush(flush func(log *os.File) error) { s.logSync.flush = flush }
