package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// The event types that scenarios use, one for each webhook.
const (
	firstType  = "participant.created"
	secondType = "participant.profile_updated"
	thirdType  = "participant.tags_added"
	fourthType = "message.sent"
)

// warmUp is how long each subject is driven before it is measured.
const warmUp = 2 * time.Second

// others are the parties that belong to the benchmark itself.
func (b *bench) others() []party {
	return []party{{"callers", os.Getpid()}, {"receiver", b.receiver.process.pid()}}
}

func (b *bench) singles(ctx context.Context) error {
	return b.saturated(ctx, fmt.Sprintf("Saturated: %d callers, one event a call", b.callers), 1)
}

func (b *bench) batches(ctx context.Context) error {
	return b.saturated(ctx, fmt.Sprintf("Saturated: %d callers, %d events a call", b.callers, b.batch), b.batch)
}

// saturated compares how much the subjects deliver when callers never wait.
func (b *bench) saturated(ctx context.Context, title string, batch int) (err error) {
	list, err := b.subjects(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(list)) }()
	rounds, err := b.takeTurns(ctx, list, func(s *subject) (func(time.Duration) (*round, error), error) {
		path := s.path()
		if err := s.subscribe(ctx, webhook{url: b.receiver.url(path), eventType: firstType}); err != nil {
			return nil, err
		}
		e, err := s.emission(firstType, batch)
		return func(d time.Duration) (*round, error) { return b.saturatedRound(ctx, s, e, path, d) }, err
	})
	if err != nil {
		return err
	}
	t := &table{Title: title, Columns: []string{
		"", "deliveries/s", "least", "most", "to baseline", "answer p50", "p99", "receipt p50", "p99",
	}}
	use := &table{Title: "CPU per delivery in the same rounds, µs", Columns: []string{
		"", "server", "Postgres", "Redis", "callers", "receiver", "all", "baseline's to it", "cores busy",
	}}
	perSecond := func(rs []*round) []float64 { return each(rs, func(r *round) float64 { return r.perSecond }) }
	for n, s := range list {
		speeds := perSecond(rounds[n])
		row := []any{s.name, median(speeds), slices.Min(speeds), slices.Max(speeds), nil}
		if list[0].stack == "" {
			row[4] = ratio(median(speeds) / median(perSecond(rounds[0])))
		}
		t.Rows = append(t.Rows, append(row, quantilesOf(rounds[n])...))
		parts, all := cpuOf(rounds[n])
		var less any
		if _, base := cpuOf(rounds[0]); list[0].stack == "" {
			less = ratio(base / all)
		}
		use.Rows = append(use.Rows, append(append([]any{s.name}, parts...), all, less, coresBusy(rounds[n])))
	}
	t.Notes = append(t.Notes, fmt.Sprintf("Median of %d rounds of %s, first emit to last arrival; one delivery an event; every event of the server arrived.", b.rounds, b.duration))
	missing := 0
	for _, r := range rounds[0] {
		missing += r.missing
	}
	if missing > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("%d of the baseline's had not arrived %s after the others, and are left out.", missing, stall))
	}
	b.tables = append(b.tables, t, use)
	return nil
}

// takeTurns prepares each subject, warms it up, and measures all of them round by round.
func (b *bench) takeTurns(ctx context.Context, list []*subject, prepare func(*subject) (func(time.Duration) (*round, error), error)) ([][]*round, error) {
	measure := make([]func(time.Duration) (*round, error), len(list))
	for n, s := range list {
		var err error
		if measure[n], err = prepare(s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if _, err = measure[n](min(warmUp, b.duration)); err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
	}
	out := make([][]*round, len(list))
	for turn := range b.rounds {
		for n, s := range list {
			r, err := measure[n](b.duration)
			if err != nil {
				return nil, err
			}
			b.logf("round %d of %d  %-18s %6.0f/s  receipt p50 %s p99 %s", turn+1, b.rounds, s.name, r.perSecond,
				text(quantile(r.receipts, 0.5)), text(quantile(r.receipts, 0.99)))
			out[n] = append(out[n], r)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func each[T any](rounds []*round, take func(*round) T) []T {
	out := make([]T, len(rounds))
	for n, r := range rounds {
		out[n] = take(r)
	}
	return out
}

// quantilesOf gives the medians over rounds of p50 and p99 of answers and receipts.
func quantilesOf(rounds []*round) []any {
	var out []any
	for _, of := range []func(*round) []time.Duration{
		func(r *round) []time.Duration { return r.answers }, func(r *round) []time.Duration { return r.receipts },
	} {
		for _, q := range []float64{0.5, 0.99} {
			out = append(out, median(each(rounds, func(r *round) time.Duration { return quantile(of(r), q) })))
		}
	}
	return out
}

// cpuOf gives each party's CPU per delivery in microseconds over all rounds, and their sum.
func cpuOf(rounds []*round) (parts []any, all float64) {
	used := map[string]time.Duration{}
	deliveries := 0
	for _, r := range rounds {
		for name, d := range r.cpu {
			used[name] += d
		}
		deliveries += r.deliveries
	}
	for _, name := range []string{"server", "Postgres", "Redis", "callers", "receiver"} {
		d, ok := used[name]
		if !ok {
			parts = append(parts, nil)
			continue
		}
		per := float64(d.Microseconds()) / float64(max(deliveries, 1))
		parts = append(parts, per)
		all += per
	}
	return parts, all
}

// coresBusy is how many cores all parties together had. Less than there are, where something else
// keeps the machine busy or everybody waits for the disk.
func coresBusy(rounds []*round) string {
	var sum, took time.Duration
	for _, r := range rounds {
		for _, d := range r.cpu {
			sum += d
		}
		took += r.took
	}
	return fmt.Sprintf("%.2f", sum.Seconds()/took.Seconds())
}
