package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// latency compares how long a delivery takes to arrive where nothing else waits.
func (b *bench) latency(ctx context.Context) (err error) {
	list, err := b.subjects(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(list)) }()
	compared := append([]*subject{b.direct()}, list...)
	rounds, err := b.takeTurns(ctx, compared, func(s *subject) (func(time.Duration) (*round, error), error) {
		path := s.path()
		if err := s.subscribe(ctx, webhook{url: b.receiver.url(path), eventType: firstType}); err != nil {
			return nil, err
		}
		e, err := s.emission(firstType, 1)
		return func(d time.Duration) (*round, error) { return b.pacedRound(ctx, s, e, path, d) }, err
	})
	if err != nil {
		return err
	}
	t := &table{Title: fmt.Sprintf("Latency at %g emits a second", b.rate), Columns: []string{
		"", "events", "answer p50", "p99", "receipt p50", "p90", "p99", "p99.9", "p50 to baseline",
	}}
	var base time.Duration
	for n, s := range compared {
		answers, receipts := pool(rounds[n])
		p50 := quantile(receipts, 0.5)
		if s.name == "baseline" {
			base = p50
		}
		row := []any{
			s.name, len(receipts), quantile(answers, 0.5), quantile(answers, 0.99),
			p50, quantile(receipts, 0.9), quantile(receipts, 0.99), quantile(receipts, 0.999), nil,
		}
		if base > 0 {
			row[8] = ratio(float64(p50) / float64(base))
		}
		t.Rows = append(t.Rows, row)
	}
	t.Notes = append(t.Notes,
		fmt.Sprintf("From before the emit is sent until the receiver has the request; %d rounds of %s each, taken together.", b.rounds, b.duration),
		"direct: the same caller posts to the receiver itself, what the machine alone takes.")
	b.tables = append(b.tables, t)
	return nil
}

// pacedRound drives a subject at the low rate.
func (b *bench) pacedRound(ctx context.Context, s *subject, e *emission, path string, duration time.Duration) (*round, error) {
	if err := b.receiver.reset(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	emits, err := pace(ctx, s, e, b.rate, duration)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	r, err := b.settle(ctx, s, path, emits)
	if err != nil {
		return nil, err
	}
	r.perSecond = float64(r.deliveries) / time.Since(began).Seconds()
	return r, ctx.Err()
}

// direct is the receiver without anything before it.
func (b *bench) direct() *subject {
	s := &subject{name: "direct", addr: b.receiver.addr}
	s.process = &process{name: "direct", log: &tail{}}
	s.subscribe = func(context.Context, webhook) error { return nil }
	s.emission = func(string, int) (*emission, error) {
		request, err := post(s.addr, "/ok/direct", "", sample())
		if err != nil {
			return nil, err
		}
		// The id stands at the head of the request, eight digits that each call counts on.
		const head = "Webhook-Id: "
		request = bytes.Replace(request, []byte("Content-Type:"), []byte(head+"00000000\r\nContent-Type:"), 1)
		at := bytes.Index(request, []byte(head)) + len(head)
		var last atomic.Int64
		return &emission{
			events: 1,
			prepare: func() ([]byte, string) {
				id := strconv.FormatInt(10_000_000+last.Add(1), 10)
				own := slices.Clone(request)
				copy(own[at:], id)
				return own, id
			},
		}, nil
	}
	return s
}

// pool gives all rounds' answers and receipts, sorted.
func pool(rounds []*round) (answers, receipts []time.Duration) {
	for _, r := range rounds {
		answers = append(answers, r.answers...)
		receipts = append(receipts, r.receipts...)
	}
	slices.Sort(answers)
	slices.Sort(receipts)
	return answers, receipts
}
