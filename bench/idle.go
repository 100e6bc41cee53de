package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// settling is how long a server is left alone before it counts as idle: start-up work, and what
// the garbage collector and the databases put off.
const settling = 10 * time.Second

// idle measures the CPU of servers that have a webhook and nothing to do.
func (b *bench) idle(ctx context.Context) (err error) {
	t := &table{
		Title:   fmt.Sprintf("Idle: CPU over %s, of one core", b.options.idle),
		Columns: []string{"", "server", "Postgres", "Redis", "resident"},
	}
	list, err := b.subjects(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(list)) }()
	for _, s := range list {
		if err := s.subscribe(ctx, webhook{url: b.receiver.url("/ok/idle"), eventType: firstType}); err != nil {
			return err
		}
	}
	if err := wait(ctx, settling); err != nil {
		return err
	}
	// All at once: servers that do nothing are not in each other's way. Postgres and Redis are
	// shared, so what they need is of all servers that use them.
	meters := make([]*meter, len(list))
	for n, s := range list {
		if meters[n], err = startMeter(s.parties); err != nil {
			return err
		}
	}
	if err := wait(ctx, b.options.idle); err != nil {
		return err
	}
	for n, s := range list {
		used, took, err := meters[n].used()
		if err != nil {
			return err
		}
		memory, err := resident(s.process.pid())
		if err != nil {
			return err
		}
		row := []any{s.name}
		for _, name := range []string{"server", "Postgres", "Redis"} {
			if d, ok := used[name]; ok {
				row = append(row, share(d.Seconds()/took.Seconds()))
			} else {
				row = append(row, nil)
			}
		}
		t.Rows = append(t.Rows, append(row, size(memory)))
		b.logf("%-18s %s", s.name, text(row[1]))
	}
	b.tables = append(b.tables, t)
	return nil
}

// memory measures what a server holds under saturating load, and when it is over.
func (b *bench) memory(ctx context.Context) (err error) {
	t := &table{
		Title:   "Resident memory of the server",
		Columns: []string{"", "at start", "under load, most", fmt.Sprintf("%s after", settling), "deliveries"},
	}
	list, err := b.subjects(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(list)) }()
	for _, s := range list {
		before, err := resident(s.process.pid())
		if err != nil {
			return err
		}
		path := "/ok/memory"
		if err := s.subscribe(ctx, webhook{url: b.receiver.url(path), eventType: firstType}); err != nil {
			return err
		}
		e, err := s.emission(firstType, 1)
		if err != nil {
			return err
		}
		r, err := b.saturatedRound(ctx, s, e, path, 3*b.duration)
		if err != nil {
			return err
		}
		if err := wait(ctx, settling); err != nil {
			return err
		}
		after, err := resident(s.process.pid())
		if err != nil {
			return err
		}
		t.Rows = append(t.Rows, []any{s.name, size(before), size(r.peak), size(after), r.deliveries})
		b.logf("%-18s %s under load", s.name, text(size(r.peak)))
	}
	t.Notes = append(t.Notes, fmt.Sprintf("Load: %d callers for %s, one event a call.", b.callers, 3*b.duration))
	b.tables = append(b.tables, t)
	return nil
}

// wait lets time pass.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
