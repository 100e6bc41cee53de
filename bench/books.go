package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// pollEvery is how often the receiver is asked how far it is; what it answers is exact.
	pollEvery = 50 * time.Millisecond
	// stall is how long nothing arrives until what is missing is given up. The server's own retries
	// and its reconciler come within it.
	stall = 30 * time.Second
)

// receiverProcess is the running receiver, and what it says.
type receiverProcess struct {
	process *process
	addr    string
	client  *http.Client
}

func startReceiver(ctx context.Context, program string) (*receiverProcess, error) {
	p, addr, err := startProcess(ctx, "receiver", program, []string{receiverCommand}, nil, firstLine)
	if err != nil {
		return nil, err
	}
	return &receiverProcess{process: p, addr: addr, client: &http.Client{Timeout: callLimit}}, nil
}

// url is where a webhook of that path points to.
func (r *receiverProcess) url(path string) string { return "http://" + r.addr + path }

func (r *receiverProcess) ask(ctx context.Context, command, path string, read func(*bufio.Scanner) error) error {
	target := r.url("/-/" + command + "?path=" + url.QueryEscape(path))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("ask receiver: %w", err)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask receiver: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if err := read(lines); err != nil {
			return fmt.Errorf("ask receiver: %w", err)
		}
	}
	return lines.Err()
}

// counted is how far a path's book is.
type counted struct {
	distinct, repeated int
	last               time.Time
}

func (r *receiverProcess) count(ctx context.Context, path string) (c counted, err error) {
	err = r.ask(ctx, "count", path, func(line *bufio.Scanner) error {
		var last int64
		_, err := fmt.Sscan(line.Text(), &c.distinct, &c.repeated, &last)
		c.last = time.Unix(0, last)
		return err
	})
	return c, err
}

// arrivals gives when each webhook-id first arrived at the path.
func (r *receiverProcess) arrivals(ctx context.Context, path string) (map[string]time.Time, error) {
	out := map[string]time.Time{}
	err := r.ask(ctx, "arrivals", path, func(line *bufio.Scanner) error {
		id, text, _ := strings.Cut(line.Text(), " ")
		at, err := strconv.ParseInt(text, 10, 64)
		out[id] = time.Unix(0, at)
		return err
	})
	return out, err
}

// reset forgets everything that arrived.
func (r *receiverProcess) reset(ctx context.Context) error {
	return r.ask(ctx, "reset", "", func(*bufio.Scanner) error { return nil })
}

// errStalled says that what is missing is not under way.
var errStalled = errors.New("nothing more arrives")

// await waits until that many distinct webhook-ids have arrived at the path, at most limit, and no
// longer than stall without another one. It returns what is there then.
func (r *receiverProcess) await(ctx context.Context, path string, distinct int, limit time.Duration) (c counted, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	newest := time.Now()
	for {
		now, err := r.count(ctx, path)
		switch {
		case ctx.Err() != nil: // whatever it made of the last question
			return c, fmt.Errorf("%d of %d arrived at %s in %s: %w", c.distinct, distinct, path, limit, ctx.Err())
		case err != nil || now.distinct >= distinct:
			return now, err
		case now.distinct > c.distinct:
			newest = time.Now()
		case time.Since(newest) > stall:
			return now, fmt.Errorf("%d of %d arrived at %s: %w", now.distinct, distinct, path, errStalled)
		}
		c = now
		select {
		case <-poll.C:
		case <-ctx.Done():
		}
	}
}
