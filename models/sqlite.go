package models

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	_ "modernc.org/sqlite" // the driver
)

// openSQLite locks the file, creates it where it does not exist, and opens one connection that
// writes and some that read. WAL lets them read while it writes.
func (s *Store) openSQLite(ctx context.Context, opts Options) error {
	s.dialect = DialectSQLite
	path := opts.DSN
	if path == "" {
		path = defaultSQLitePath
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find database file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make database folder: %w", err)
	}
	if s.unlock, err = lockFile(path); err != nil {
		s.unlock = func() error { return nil }
		return err
	}
	// The file holds sealed keys and everything that was sent: nobody else's to read.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open database file: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("open database file: %w", err)
	}
	// The writer's cache is 8 MB. There are many readers; what they share is in the system's cache, and each has
	// SQLite's 2 MB of its own.
	if s.main, err = sql.Open("sqlite", sqliteDSN(path, "_txlock=immediate&_pragma=cache_size(-8000)")); err != nil {
		return err
	}
	s.main.SetMaxOpenConns(1)
	s.main.SetMaxIdleConns(1)
	s.hot, s.relaxed = s.main, s.main
	// The writer goes first: it is the one that may turn WAL on.
	if err := s.main.PingContext(ctx); err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if s.readers, err = sql.Open("sqlite", sqliteDSN(path, "_query_only=1")); err != nil {
		return err
	}
	s.readers.SetMaxOpenConns(opts.MaxConns)
	s.readers.SetMaxIdleConns(opts.MaxConns)
	s.stmts = &statements{db: s.main, byText: map[string]*sql.Stmt{}}
	if s.db, err = gormOver(sqliteDialector{s.main}); err != nil {
		return err
	}
	if s.reads, err = gormOver(sqliteDialector{s.readers}); err != nil {
		return err
	}
	s.checkpoints, err = newCheckpointer(path, s.main, s.log) //nolint:contextcheck // it lives as long as the store
	if err != nil {
		return err
	}
	s.logSync = newLogSync(ctx, path, s.checkpoints.own)
	return nil
}

// sqliteDSN is what every connection shares. That a commit survives a power cut is logSync's work.
func sqliteDSN(path, more string) string {
	shared := "_busy_timeout=2000&_journal_mode=WAL&_synchronous=NORMAL&_time_integer_format=unix_micro&_inttotime=1" +
		"&_dqs=0&_pragma=temp_store(2)&_pragma=journal_size_limit(67108864)" +
		"&_pragma=wal_autocheckpoint(" + strconv.Itoa(autoCheckpoint) + ")"
	return (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: shared + "&" + more}).String()
}
