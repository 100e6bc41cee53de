package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// logSync makes what was committed survive a power cut. SQLite would do it within the commit, where it
// takes most of the time for which the one writer is taken (synchronous=FULL). Here a commit ends when
// its pages are in the log (NORMAL), the next transaction begins, and one sync is for all that wait for
// one, see https://www.sqlite.org/wal.html#performance_considerations. Nobody hears of a commit, and
// nothing leaves the process because of it, before its sync.
type logSync struct {
	path    string // of the log
	flush   func(*os.File) error
	restart func() error // copies the log to the database file and empties it
	using   sync.Mutex   // file and suspect: one sync at a time, or the end
	file    *os.File
	suspect bool // a sync has failed: what the log holds may not be what the disk holds

	mu      sync.Mutex
	pending bool // something was committed that no sync has begun for
	running *syncRound
	next    *syncRound
}

// syncRound is one sync, for all that were committed before it began.
type syncRound struct {
	done chan struct{}
	err  error
}

// errNotSynced says that what was committed may not survive a power cut.
var errNotSynced = errors.New("the disk did not take the database's log")

// recoverWithin bounds how long a sync waits for readers to let go of a log that is suspect.
const recoverWithin = 2 * time.Second

// newLogSync syncs the log of the database at path. own is a connection to it that is not the writer's.
func newLogSync(ctx context.Context, path string, own *sql.DB) *logSync {
	life := context.WithoutCancel(ctx)
	return &logSync{path: path + "-wal", flush: (*os.File).Sync, restart: func() error { return restartLog(life, own) }}
}

// committed says that there is something to sync.
func (l *logSync) committed() {
	l.mu.Lock()
	l.pending = true
	l.mu.Unlock()
}

// wait returns when everything that was committed by now is on the disk.
func (l *logSync) wait() error {
	l.mu.Lock()
	running := l.running
	switch {
	case !l.pending && running == nil:
		l.mu.Unlock()
		return nil
	case !l.pending:
		l.mu.Unlock()
		<-running.done
		return running.err
	case running == nil:
		r := &syncRound{done: make(chan struct{})}
		l.running = r
		l.mu.Unlock()
		return l.lead(r)
	case l.next == nil:
		// The one that runs may have begun before the commit. The first to find that leads the next.
		r := &syncRound{done: make(chan struct{})}
		l.next = r
		l.mu.Unlock()
		<-running.done
		return l.lead(r)
	}
	r := l.next
	l.mu.Unlock()
	<-r.done
	return r.err
}

// lead syncs for everybody in r, which is l.running.
func (l *logSync) lead(r *syncRound) error {
	l.mu.Lock()
	l.pending = false
	l.mu.Unlock()
	err := l.sync()
	l.mu.Lock()
	if r.err = err; err != nil {
		l.pending = true
	}
	l.running, l.next = l.next, nil
	l.mu.Unlock()
	close(r.done)
	return err
}

// sync runs once at a time.
func (l *logSync) sync() error {
	l.using.Lock()
	defer l.using.Unlock()
	if l.suspect {
		// The system says a failure once and then takes the pages for written. So they are written
		// anew, to the database file, and the log begins anew.
		if err := l.restart(); err != nil {
			return fmt.Errorf("%w: %w", errNotSynced, err)
		}
		l.suspect = false
	}
	err := l.open()
	if err == nil && l.file != nil {
		err = l.flush(l.file)
	}
	if err != nil {
		l.suspect = true
		return fmt.Errorf("%w: %w", errNotSynced, err)
	}
	return nil
}

// open makes file the log. There is none after its last connection was closed, which copies it first.
func (l *logSync) open() error {
	info, err := os.Stat(l.path)
	if l.file != nil {
		if known, e := l.file.Stat(); err == nil && e == nil && os.SameFile(info, known) {
			return nil
		}
		_ = l.file.Close() // nothing was written through it
		l.file = nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	l.file, err = os.OpenFile(l.path, os.O_RDWR, 0)
	return err
}

func restartLog(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	var busy, length, copied int
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &length, &copied); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("its log is in use")
	}
	return nil
}

// close lets go of the log.
func (l *logSync) close() error {
	l.using.Lock()
	defer l.using.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
