package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// steadyShare is the part of its capacity that a server is driven at.
	steadyShare = 0.7
	// steadyStretch is how long it is driven between two looks at it.
	steadyStretch = 20 * time.Second
	// connectionsIdle is longer than anything keeps an idle connection to a receiver or a caller, and
	// steadyLooks how often a quiet server is looked at meanwhile.
	connectionsIdle = 130 * time.Second
	steadyLooks     = 5 * time.Second
)

// kept bounds what a server keeps where it runs for long, so that what it holds can be level.
func kept() []string {
	return []string{"RETENTION=2m", "FEED_RETENTION=2m", "RETENTION_INTERVAL=10s"}
}

// holdings is what a process holds at a moment.
type holdings struct {
	goroutines, descriptors int
	connections             int // to Postgres
}

// steady drives each server for long at a part of what it can do, and says whether what it holds grows.
func (b *bench) steady(ctx context.Context) (err error) {
	t := &table{
		Title: fmt.Sprintf("Steady load for %s, at %.0f %% of capacity", b.long, 100*steadyShare),
		Columns: []string{
			"", "emits/s", "events", "resident, first half", "second half", "slope/h", "heap's goal, slope/h",
			"goroutines before", "after", "descriptors before", "after", "to Postgres before", "after", "oldest event, at most", "at the end",
		},
		Notes: []string{
			"resident: the median of a look every " + steadyStretch.String() + "; slope: of a line through the second half's looks, by least squares.",
			"heap's goal: the size at which the next collection of garbage begins, a fixed multiple of what the last one left, and so without what resident has of chance.",
			fmt.Sprintf("before, after: of a server that has been left alone for %s. Retention removes what is older than two minutes, so that the database is level.", connectionsIdle),
			"oldest event: its age under load, which grows where retention removes less than comes.",
		},
	}
	b.serverEnv = kept()
	defer func() { b.serverEnv = nil }()
	list, err := b.subjects(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(list)) }()
	for _, s := range list {
		row, err := b.steadyOne(ctx, s)
		if err != nil {
			return err
		}
		t.Rows = append(t.Rows, row)
	}
	b.tables = append(b.tables, t)
	return nil
}

func (b *bench) steadyOne(ctx context.Context, s *subject) ([]any, error) {
	path := s.path()
	if err := s.subscribe(ctx, webhook{url: b.receiver.url(path), eventType: firstType}); err != nil {
		return nil, err
	}
	e, err := s.emission(firstType, 1)
	if err != nil {
		return nil, err
	}
	full, err := b.saturatedRound(ctx, s, e, path, 2*b.duration)
	if err != nil {
		return nil, err
	}
	rate := steadyShare * full.perSecond
	b.logf("%-18s %.0f/s saturated; waiting until it is idle", s.name, full.perSecond)
	before, err := b.quiet(ctx, s)
	if err != nil {
		return nil, err
	}
	var looks []look
	var oldest, last time.Duration
	events := 0
	for began := time.Now(); time.Since(began) < b.long; {
		if err := b.receiver.reset(ctx); err != nil {
			return nil, err
		}
		emits, err := pace(ctx, s, e, rate, steadyStretch)
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", s.name, err, s.process.log)
		}
		if last, err = s.oldestEvent(); err != nil {
			return nil, err
		}
		oldest = max(oldest, last)
		r, err := b.settle(ctx, s, path, emits)
		if err != nil {
			return nil, err
		}
		events += r.deliveries
		now, err := resident(s.process.pid())
		if err != nil {
			return nil, err
		}
		metrics, err := s.metrics(ctx)
		if err != nil {
			return nil, err
		}
		goal := int64(metrics["go_memstats_next_gc_bytes"])
		looks = append(looks, look{time.Since(began), now, goal})
		b.logf("%-18s %s of %s: %d events, the oldest %s old, %s resident, heap's goal %s, receipt p50 %s p99 %s", s.name,
			time.Since(began).Round(time.Second), b.long, events, last.Round(time.Second), text(size(now)), text(size(goal)), text(quantile(r.receipts, 0.5)), text(quantile(r.receipts, 0.99)))
	}
	after, err := b.quiet(ctx, s)
	if err != nil {
		return nil, err
	}
	half := len(looks) / 2
	row := []any{
		s.name, rate, events, size(middle(looks[:half])), size(middle(looks[half:])), perHour(slope(looks[half:], look.memory)), perHour(slope(looks[half:], look.heap)),
		before.goroutines, after.goroutines, before.descriptors, after.descriptors, nil, nil, oldest, last,
	}
	if s.stack == production {
		row[11], row[12] = before.connections, after.connections
	}
	return row, nil
}

// look is how much memory a process had at a time.
type look struct {
	at       time.Duration
	resident int64
	goal     int64 // of the heap
}

func (l look) memory() float64 { return float64(l.resident) }
func (l look) heap() float64   { return float64(l.goal) }

func middle(looks []look) int64 {
	values := make([]int64, len(looks))
	for n, l := range looks {
		values[n] = l.resident
	}
	return median(values)
}

// slope is that of the line through the looks by least squares, in bytes an hour; zero where there are
// too few for one.
func slope(looks []look, of func(look) float64) float64 {
	if len(looks) < 2 {
		return 0
	}
	var x, y float64
	for _, l := range looks {
		x += l.at.Hours() / float64(len(looks))
		y += of(l) / float64(len(looks))
	}
	var over, under float64
	for _, l := range looks {
		over += (l.at.Hours() - x) * (of(l) - y)
		under += (l.at.Hours() - x) * (l.at.Hours() - x)
	}
	return over / under
}

// quiet leaves the server alone until idle connections are closed, and gives what it holds then: the least that is
// seen, since it does work of its own now and then.
func (b *bench) quiet(ctx context.Context, s *subject) (least holdings, err error) {
	if err := wait(ctx, connectionsIdle); err != nil {
		return least, err
	}
	for n := range 5 {
		now, err := b.holds(ctx, s)
		if err != nil {
			return least, err
		}
		if n == 0 {
			least = now
		}
		least.goroutines = min(least.goroutines, now.goroutines)
		least.descriptors = min(least.descriptors, now.descriptors)
		least.connections = min(least.connections, now.connections)
		if err := wait(ctx, steadyLooks); err != nil {
			return least, err
		}
	}
	return least, nil
}

// holds asks the server's metrics, and the database for its connections.
func (b *bench) holds(ctx context.Context, s *subject) (h holdings, err error) {
	metrics, err := s.metrics(ctx)
	if err != nil {
		return h, err
	}
	h.goroutines, h.descriptors = int(metrics["go_goroutines"]), int(metrics["process_open_fds"])
	if h.goroutines == 0 || h.descriptors == 0 {
		return h, errors.New("the metrics name no goroutines or no descriptors")
	}
	if s.stack != production {
		return h, nil
	}
	connection, err := pgx.Connect(ctx, s.database)
	if err != nil {
		return h, fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = connection.Close(ctx) }()
	err = connection.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&h.connections)
	if err != nil {
		return h, fmt.Errorf("count connections: %w", err)
	}
	return h, nil
}

// oldestEvent is how long ago the oldest event came that the server has.
func (s *subject) oldestEvent() (time.Duration, error) {
	var out struct {
		Events struct {
			Nodes []struct{ Timestamp time.Time }
		}
	}
	if err := s.query(`{ events(last: 1) { nodes { timestamp } } }`, nil, &out); err != nil {
		return 0, fmt.Errorf("find the oldest event: %w", err)
	}
	if len(out.Events.Nodes) == 0 {
		return 0, nil
	}
	return time.Since(out.Events.Nodes[0].Timestamp), nil
}

// metrics reads the server's metrics that have no labels.
func (s *subject) metrics(ctx context.Context) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+s.key)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics: answered %s", response.Status)
	}
	found := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] = number
		}
	}
	return found, nil
}

// perHour is how a slope is read.
func perHour(bytes float64) string { return fmt.Sprintf("%+.1f MB", bytes/1e6) }
