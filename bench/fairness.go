package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	badRate     = 50.0 // events a second for each bad webhook, on top of its backlog
	limitedRate = 20   // a second, of the rate-limited webhook
	backlogCall = 100  // events of one call that makes the backlog
)

// fairness measures a healthy webhook by itself, then beside a hanging, a slow and a rate-limited
// one, each with a backlog and more coming.
func (b *bench) fairness(ctx context.Context) (err error) {
	t := &table{
		Title:   fmt.Sprintf("Fairness: a healthy webhook at %g events a second beside three bad ones", b.rate),
		Columns: []string{"", "alone p50", "p99", "beside them p50", "p99", "p99 to alone"},
	}
	for _, stack := range b.stacks {
		alone, beside, err := b.besideBad(ctx, stack)
		if err != nil {
			return err
		}
		t.Rows = append(t.Rows, []any{
			stack, quantile(alone.receipts, 0.5), quantile(alone.receipts, 0.99),
			quantile(beside.receipts, 0.5), quantile(beside.receipts, 0.99),
			ratio(float64(quantile(beside.receipts, 0.99)) / float64(max(1, quantile(alone.receipts, 0.99)))),
		})
	}
	t.Notes = append(t.Notes, fmt.Sprintf(
		"Each bad one (never answers; answers after 2 s; limited to %d a second) has %d deliveries waiting and %g a second coming; %s each.",
		limitedRate, b.backlog, badRate, b.measured()))
	b.tables = append(b.tables, t)
	return nil
}

// measured is how long each half lasts: p99 needs some hundreds of events.
func (b *bench) measured() time.Duration { return 4 * b.duration }

func (b *bench) besideBad(ctx context.Context, stack string) (alone, beside *round, err error) {
	s, err := b.startServer(ctx, stack, stack, b.serverPath)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, s.process.stop()) }()
	healthy := "/ok/healthy"
	if err := b.receiver.reset(ctx); err != nil {
		return nil, nil, err
	}
	bad := []string{secondType, thirdType, fourthType}
	for _, hook := range []webhook{
		{url: b.receiver.url(healthy), eventType: firstType},
		{url: b.receiver.url("/hang/bad"), eventType: secondType},
		{url: b.receiver.url("/slow/bad"), eventType: thirdType},
		{url: b.receiver.url("/ok/limited"), eventType: fourthType, perSecond: limitedRate},
	} {
		if err := s.subscribe(ctx, hook); err != nil {
			return nil, nil, err
		}
	}
	e, err := s.emission(firstType, 1)
	if err != nil {
		return nil, nil, err
	}
	if _, err := b.pacedRound(ctx, s, e, healthy, min(warmUp, b.duration)); err != nil {
		return nil, nil, err
	}
	if alone, err = b.pacedRound(ctx, s, e, healthy, b.measured()); err != nil {
		return nil, nil, err
	}
	b.logf("%-18s alone: p99 %s; making the backlog", stack, text(quantile(alone.receipts, 0.99)))
	c := &caller{addr: s.addr}
	defer c.close()
	for _, eventType := range bad {
		many, err := s.emission(eventType, backlogCall)
		if err != nil {
			return nil, nil, err
		}
		for range b.backlog / backlogCall {
			if _, _, err := c.emit(many, nil); err != nil {
				return nil, nil, fmt.Errorf("make the backlog: %w", err)
			}
		}
	}
	// The bad ones get more for as long as the healthy one is measured.
	background, stop := context.WithCancel(ctx)
	failed := make(chan error, len(bad))
	for _, eventType := range bad {
		go func() {
			more, err := s.emission(eventType, 1)
			if err == nil {
				_, err = pace(background, s, more, badRate, 2*b.measured())
			}
			failed <- err
		}()
	}
	beside, err = b.pacedRound(ctx, s, e, healthy, b.measured())
	stop()
	for range bad {
		err = errors.Join(err, <-failed)
	}
	if err == nil {
		b.logf("%-18s beside the bad ones: p99 %s", stack, text(quantile(beside.receipts, 0.99)))
	}
	return alone, beside, err
}
