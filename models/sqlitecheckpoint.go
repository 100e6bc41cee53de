package models

import (
	"context"
	"database/sql"
	"log/slog"
	"time"
)

const (
	// checkpointEvery is how often what is in the log is copied to the database file. Each copy has
	// about as much to write as a second has brought, so that no commit waits for long behind its sync.
	checkpointEvery = time.Second
	// checkpointPasses bounds how often in a row a log is followed that grows while it is copied.
	checkpointPasses = 8
	// checkpointBehind is how many pages may be left over for a pass that keeps the writer waiting.
	checkpointBehind = 256
	// longLog is when the writer waits so that the log can begin anew, in pages.
	longLog = 4096
	// autoCheckpoint is the log's length at which SQLite itself makes a committer copy it, should
	// nobody else have done so. The copy of this many pages takes a disk a good part of a second.
	autoCheckpoint = 32_768
)

// checkpointer copies SQLite's log (WAL) to the database file, on a connection of its own. By default
// SQLite leaves that to whoever commits when the log has grown long, who then waits for thousands of
// pages to be written and synced. See https://www.sqlite.org/wal.html#ckpt, "Avoiding Excessively
// Large WAL Files" as well: a log begins anew only when all of it was copied while nobody wrote.
type checkpointer struct {
	own    *sql.DB // one connection
	writer *sql.DB
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}
}

// newCheckpointer starts one. close must follow.
func newCheckpointer(path string, writer *sql.DB, log *slog.Logger) (*checkpointer, error) {
	own, err := sql.Open("sqlite", sqliteDSN(path, ""))
	if err != nil {
		return nil, err
	}
	own.SetMaxOpenConns(1)
	own.SetMaxIdleConns(1)
	ctx, stop := context.WithCancel(context.Background())
	c := &checkpointer{own: own, writer: writer, log: log, stop: stop, done: make(chan struct{})}
	go c.run(ctx)
	return c, nil
}

func (c *checkpointer) close() error {
	c.stop()
	<-c.done
	return c.own.Close()
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.copy(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			c.log.WarnContext(ctx, "database log not copied, it grows until it is", "error", err)
		}
		failing = err != nil
	}
}

// copy copies what is in the log, and what comes meanwhile, until there is little left. It makes a log
// that has grown long begin anew.
func (c *checkpointer) copy(ctx context.Context) error {
	var length int
	for range checkpointPasses {
		before := length
		var err error
		if length, err = checkpoint(ctx, c.own); err != nil {
			return err
		}
		if length-before <= checkpointBehind {
			break
		}
	}
	if length < longLog {
		return nil
	}
	// Nobody writes while the writer's connection is ours, so this pass copies all, and the next writer
	// begins anew. Where a reader still needs the log, a later pass does it.
	_, err := checkpoint(ctx, c.writer)
	return err
}

// checkpoint makes one pass that waits for nobody, over what the log held when it began: length pages.
func checkpoint(ctx context.Context, db *sql.DB) (length int, err error) {
	var busy, copied int
	err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &length, &copied)
	return length, err
}
