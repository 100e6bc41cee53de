package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// clockInterval is how often RunClock asks the database for its time.
const clockInterval = 10 * time.Second

// clockReading is one look at the database's clock.
type clockReading struct {
	said  time.Time // by the database
	heard time.Time // when it was heard, by this process's monotonic clock
	// doubt is how long the answer may have been under way: the database's time when it was heard is
	// said at least, and said + doubt at most.
	doubt time.Duration
}

// at is the least that the database's clock can show now.
func (r *clockReading) at() time.Time { return r.said.Add(time.Since(r.heard)) }

// better reports whether r is to replace the reading before it: where it is about as exact, for
// readings age, or where not both can be true, for then somebody set the database's clock.
func (r *clockReading) better(before *clockReading) bool {
	if before == nil {
		return true
	}
	age := r.heard.Sub(before.heard)
	drift := age / 1000 // what a clock may gain or lose
	ahead := r.said.Sub(before.said.Add(age))
	return r.doubt <= before.doubt+drift || ahead > before.doubt+drift || ahead < -r.doubt-drift
}

// Clock is the database's clock, told without asking it: what it said last, and what has passed since by
// a clock that nobody can set. It is behind by as long as an answer takes, and never ahead, so what is
// due by it is due. However wrong this process's own clock is, all processes of a deployment tell the
// same time by this one. Times that are stored or compared with stored ones are taken from here.
//
// Before the database has answered for the first time it is this process's own clock.
func (s *Store) Clock() time.Time {
	if s.dialect == DialectSQLite {
		return Instant(time.Now())
	}
	r := s.said.Load()
	if r == nil {
		return Instant(time.Now())
	}
	return Instant(r.at())
}

// RunClock keeps Clock true until ctx ends.
func (s *Store) RunClock(ctx context.Context) error {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		// What fails is tried again; Clock goes on meanwhile.
		_, _ = s.Now(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clock reads the database's clock within db's transaction. In Postgres it is the time of this
// statement, not of the transaction, which may have waited for a lock since. SQLite's clock is
// that of the process, which is the only one that has the file open.
func (s *Store) clock(db *gorm.DB) (time.Time, error) {
	if s.dialect == DialectSQLite {
		return Instant(time.Now()), nil
	}
	asked := time.Now()
	var now time.Time
	if err := db.Raw("SELECT clock_timestamp()").Row().Scan(&now); err != nil {
		return time.Time{}, err
	}
	s.heard(now, asked)
	return Instant(now), nil
}

// heard takes note of what the database's clock showed at some moment since asked.
func (s *Store) heard(said, asked time.Time) {
	heard := time.Now()
	r := &clockReading{said: said, heard: heard, doubt: heard.Sub(asked)}
	for {
		before := s.said.Load()
		if !r.better(before) || s.said.CompareAndSwap(before, r) {
			return
		}
	}
}
