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

// fairness measures a healthy webhook by itself, then beside one that hangs, then while a hanging, a slow
// and a rate-limited one get a backlog, then beside these backlogs, and with more coming for each.
func (b *bench) fairness(ctx context.Context) (err error) {
	t := &table{
		Title:   fmt.Sprintf("Fairness: receipt at a healthy webhook with %g events a second, beside bad ones", b.rate),
		Columns: []string{"", "events", "answer p99", "p50", "p90", "p99", "disk stalled", "p99 outside", "to alone"},
	}
	for _, stack := range b.stacks {
		rounds, err := b.besideBad(ctx, stack)
		if err != nil {
			return err
		}
		alone := quantile(outside(rounds[0].ways, rounds[0].stalls), 0.99)
		for n, r := range rounds {
			p99 := quantile(outside(r.ways, r.stalls), 0.99)
			t.Rows = append(t.Rows, []any{
				stack + " " + fairnessRounds[n], len(r.receipts), quantile(r.answers, 0.99), quantile(r.receipts, 0.5),
				quantile(r.receipts, 0.9), quantile(r.receipts, 0.99), len(r.stalls), p99, ratio(float64(p99) / float64(max(1, alone))),
			})
		}
	}
	t.Notes = append(t.Notes, fmt.Sprintf(
		"The one that hangs gets %g events a second. The backlogs are %d deliveries for each of one that never answers, one that answers "+
			"after 2 s and one limited to %d a second; more coming: %g a second for each. %s each. "+
			"Outside: without those that were under way while a sync of the benchmark's own took more than %s.",
		badRate, b.backlog, limitedRate, badRate, b.measured(), stallOver))
	b.tables = append(b.tables, t)
	return nil
}

// measured is how long each half lasts: p99 needs some hundreds of events.
func (b *bench) measured() time.Duration { return 4 * b.duration }

// fairnessRounds are what goes on beside the healthy webhook, one after the other.
var fairnessRounds = [...]string{
	"alone", "beside one that hangs", "while the backlogs arrive", "beside the backlogs", "beside them, more coming",
}

const backlogRound = 2

// watched is a round and when the disk stalled during it.
type watched struct {
	*round

	stalls []span
}

// besideBad gives the rounds of one stack.
func (b *bench) besideBad(ctx context.Context, stack string) (rounds [len(fairnessRounds)]watched, err error) {
	s, err := b.startServer(ctx, stack, stack, b.serverPath)
	if err != nil {
		return rounds, err
	}
	defer func() { err = errors.Join(err, s.process.stop()) }()
	const healthy = "/ok/healthy"
	if err := b.receiver.reset(ctx); err != nil {
		return rounds, err
	}
	for _, hook := range []webhook{
		{url: b.receiver.url(healthy), eventType: firstType},
		{url: b.receiver.url("/hang/bad"), eventType: secondType},
		{url: b.receiver.url("/slow/bad"), eventType: thirdType},
		{url: b.receiver.url("/ok/limited"), eventType: fourthType, perSecond: limitedRate},
	} {
		if err := s.subscribe(ctx, hook); err != nil {
			return rounds, err
		}
	}
	e, err := s.emission(firstType, 1)
	if err != nil {
		return rounds, err
	}
	if _, err := b.pacedRound(ctx, s, e, healthy, min(warmUp, b.duration)); err != nil {
		return rounds, err
	}
	// Each round has something going on beside it, which ends with it at the latest.
	for n, beside := range []func(context.Context) error{
		func(context.Context) error { return nil },
		func(ctx context.Context) error { return paceBad(ctx, s, 2*b.measured(), secondType) },
		func(ctx context.Context) error { return b.makeBacklog(ctx, s) },
		func(context.Context) error { return nil },
		func(ctx context.Context) error { return paceBad(ctx, s, 2*b.measured(), badTypes()...) },
	} {
		disk, err := b.watchDisk()
		if err != nil {
			return rounds, err
		}
		background, stop := context.WithCancel(ctx)
		failed := make(chan error, 1)
		go func() { failed <- beside(background) }()
		r, err := b.pacedRound(ctx, s, e, healthy, b.measured())
		if n == backlogRound {
			err = errors.Join(err, <-failed) // the backlog is made in full
			stop()
		} else {
			stop()
			err = errors.Join(err, <-failed)
		}
		if err != nil {
			return rounds, err
		}
		if rounds[n].stalls, err = disk.stop(); err != nil {
			return rounds, err
		}
		rounds[n].round = r
		b.logf("%-18s %s: p99 %s", stack, fairnessRounds[n], text(quantile(r.receipts, 0.99)))
	}
	return rounds, nil
}

// badTypes are the event types of the bad webhooks.
func badTypes() []string { return []string{secondType, thirdType, fourthType} }

// makeBacklog emits what the bad webhooks have waiting, as fast as one caller can.
func (b *bench) makeBacklog(ctx context.Context, s *subject) error {
	c := &caller{addr: s.addr}
	defer c.close()
	for _, eventType := range badTypes() {
		many, err := s.emission(eventType, backlogCall)
		if err != nil {
			return err
		}
		for range b.backlog / backlogCall {
			if _, _, err := c.emit(many, nil); err != nil {
				return fmt.Errorf("make the backlog: %w", err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// paceBad emits for each of the bad webhooks that these types go to, at a steady rate.
func paceBad(ctx context.Context, s *subject, duration time.Duration, types ...string) error {
	failed := make(chan error, len(types))
	for _, eventType := range types {
		go func() {
			more, err := s.emission(eventType, 1)
			if err == nil {
				_, err = pace(ctx, s, more, badRate, duration)
			}
			failed <- err
		}()
	}
	var err error
	for range types {
		err = errors.Join(err, <-failed)
	}
	return err
}
