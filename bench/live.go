package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// liveRate is how many events a second are fanned out; times the followers, that many messages.
	liveRate = 5
	// joinAtOnce is how many followers connect at the same time.
	joinAtOnce = 32
	// liveSubscription is what each of them asks for: the filter and the shape cost the server
	// something, as they would with real ones.
	liveSubscription = `subscription { eventEmitted(eventTypes: ["` + firstType + `"], filter: "data.participant.locale == 'en-GB'") {
		cursor event { id eventType } data } }`
)

// live measures followers of the live feed: what each costs in memory, and how long an event takes
// to reach all of them.
func (b *bench) live(ctx context.Context) error {
	t := &table{
		Title: fmt.Sprintf("Live: %d followers of one process, %d events a second", b.followers, liveRate),
		Columns: []string{
			"", "before", "following", "each", "events", "answer p50", "one p50", "p99", "all p50", "p99", "server CPU",
		},
		Notes: []string{
			"before, following: resident memory; each: the difference for one follower, its connection included.",
			"one: from before the emit is sent until a follower has the event; all: until the last of them has it.",
			"The followers share the machine, and read what they get: what they need is part of the time.",
		},
	}
	for _, stack := range b.stacks {
		for _, transport := range []string{"WebSocket", "SSE"} {
			row, err := b.liveRow(ctx, stack, transport)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", stack, transport, err)
			}
			t.Rows = append(t.Rows, row)
			b.logf("%s, %-10s %s a follower, %s to all", stack, transport, text(row[3]), text(row[8]))
		}
	}
	b.tables = append(b.tables, t)
	return nil
}

// kilobytes is a number of bytes that is small.
type kilobytes int64

func (k kilobytes) String() string { return fmt.Sprintf("%.1f kB", float64(k)/1e3) }

func (b *bench) liveRow(ctx context.Context, stack, transport string) (row []any, err error) {
	s, err := b.startServer(ctx, stack, stack, b.serverPath)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.process.stop()) }()
	e, err := s.emission(firstType, 1)
	if err != nil {
		return nil, err
	}
	if _, err := pace(ctx, s, e, liveRate, time.Second); err != nil { // what is made at first use
		return nil, err
	}
	if err := wait(ctx, settling); err != nil {
		return nil, err
	}
	before, err := resident(s.process.pid())
	if err != nil {
		return nil, err
	}
	followers, err := followAll(ctx, s, transport, b.followers)
	defer func() {
		for _, f := range followers {
			err = errors.Join(err, f.close())
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, settling); err != nil {
		return nil, err
	}
	following, err := resident(s.process.pid())
	if err != nil {
		return nil, err
	}
	meter, err := startMeter(s.parties[:1])
	if err != nil {
		return nil, err
	}
	emits, err := pace(ctx, s, e, liveRate, b.measured())
	if err != nil {
		return nil, err
	}
	fans, err := fanOut(ctx, followers, emits)
	if err != nil {
		return nil, err
	}
	used, took, err := meter.used()
	if err != nil {
		return nil, err
	}
	return []any{
		stack + ", " + transport, size(before), size(following), kilobytes((following - before) / int64(len(followers))), len(emits),
		quantile(fans.answers, 0.5), quantile(fans.one, 0.5), quantile(fans.one, 0.99), quantile(fans.all, 0.5), quantile(fans.all, 0.99),
		share(used["server"].Seconds() / took.Seconds()),
	}, nil
}

// fans are how long events took: to be answered, to reach each follower, and to reach the last; sorted.
type fans struct{ answers, one, all []time.Duration }

// fanOut waits until every follower has every event, each once.
func fanOut(ctx context.Context, followers []*follower, emits []emit) (fans, error) {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	var f fans
	last := make([]time.Time, len(emits))
	for n, one := range followers {
		arrived, err := one.await(ctx, len(emits))
		if err != nil {
			return f, fmt.Errorf("follower %d: %w", n, err)
		}
		for i, e := range emits {
			at, ok := arrived[e.id]
			if !ok {
				return f, fmt.Errorf("follower %d did not get event %s", n, e.id)
			}
			f.one = append(f.one, at.Sub(e.sent))
			if at.After(last[i]) {
				last[i] = at
			}
		}
	}
	for i, e := range emits {
		f.answers = append(f.answers, e.answered.Sub(e.sent))
		f.all = append(f.all, last[i].Sub(e.sent))
	}
	slices.Sort(f.answers)
	slices.Sort(f.one)
	slices.Sort(f.all)
	return f, nil
}

// A follower is a subscription on a connection of its own, with what arrived on it.
type follower struct {
	conn    net.Conn
	read    func() ([]byte, error) // the next update
	done    chan struct{}
	mu      sync.Mutex
	arrived map[string]time.Time
	changed chan struct{} // closed and replaced with each arrival
	err     error
}

// followAll connects followers, some at once. Those that it connected are to be closed though it fails.
func followAll(ctx context.Context, s *subject, transport string, count int) ([]*follower, error) {
	followers := make([]*follower, count)
	errs := make([]error, count)
	open := followSocket
	if transport == "SSE" {
		open = followEvents
	}
	next := make(chan int)
	var joining sync.WaitGroup
	for range joinAtOnce {
		joining.Go(func() {
			for n := range next {
				f := &follower{done: make(chan struct{}), arrived: map[string]time.Time{}, changed: make(chan struct{})}
				if errs[n] = open(ctx, s, f); errs[n] != nil {
					continue
				}
				followers[n] = f
				go f.run()
			}
		})
	}
	for n := range count {
		next <- n
	}
	close(next)
	joining.Wait()
	return slices.DeleteFunc(followers, func(f *follower) bool { return f == nil }), errors.Join(errs...)
}

// run notes what arrives until the connection ends.
func (f *follower) run() {
	defer close(f.done)
	for {
		update, err := f.read()
		at := time.Now()
		id := eventIn(update)
		f.mu.Lock()
		switch {
		case err != nil:
			f.err = err
		case id == "":
			f.err = fmt.Errorf("got %s", update)
		case !f.arrived[id].IsZero():
			f.err = fmt.Errorf("got event %s twice", id)
		default:
			f.arrived[id] = at
		}
		failed := f.err != nil
		close(f.changed)
		f.changed = make(chan struct{})
		f.mu.Unlock()
		if failed {
			return
		}
	}
}

// eventIn gives the id of an update's event, "" where there is none.
func eventIn(update []byte) string {
	const head = `"event":{"id":"`
	_, rest, found := bytes.Cut(update, []byte(head))
	end := bytes.IndexByte(rest, '"')
	if !found || end < 0 {
		return ""
	}
	return string(rest[:end])
}

// await waits until that many events have arrived.
func (f *follower) await(ctx context.Context, count int) (map[string]time.Time, error) {
	for {
		f.mu.Lock()
		arrived, err, changed := f.arrived, f.err, f.changed
		there := len(arrived)
		if there >= count {
			arrived = maps.Clone(arrived)
		}
		f.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case there >= count:
			return arrived, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events arrived: %w", there, count, ctx.Err())
		}
	}
}

func (f *follower) close() error {
	err := f.conn.Close()
	<-f.done
	return err
}

// followSocket subscribes over graphql-transport-ws. It returns once nothing is missed: the answer
// to a ping says that what was asked before it is done.
func followSocket(ctx context.Context, s *subject, f *follower) error {
	dialer := websocket.Dialer{Subprotocols: []string{"graphql-transport-ws"}, HandshakeTimeout: callLimit}
	socket, response, err := dialer.DialContext(ctx, "ws://"+s.addr+"/graphql", nil)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	_ = response.Body.Close() // of a handshake that succeeded: there is none
	f.conn = socket.NetConn()
	f.read = func() ([]byte, error) {
		_, message, err := socket.ReadMessage()
		return message, err
	}
	payload := map[string]any{"query": liveSubscription}
	for _, step := range []struct {
		send map[string]any
		want string
	}{
		{map[string]any{"type": "connection_init", "payload": map[string]string{"Authorization": "Bearer " + s.key}}, "connection_ack"},
		{map[string]any{"type": "subscribe", "id": "1", "payload": payload}, ""},
		{map[string]any{"type": "ping"}, "pong"},
	} {
		if err := socket.WriteJSON(step.send); err != nil {
			return errors.Join(fmt.Errorf("send: %w", err), socket.Close())
		}
		if step.want == "" {
			continue
		}
		var got struct{ Type string }
		if err := socket.ReadJSON(&got); err != nil || got.Type != step.want {
			return errors.Join(fmt.Errorf("got %q and not %s", got.Type, step.want), err, socket.Close())
		}
	}
	return nil
}

// followEvents subscribes over server-sent events. It returns once nothing is missed: what the stream
// begins with is sent when the subscription is made.
func followEvents(ctx context.Context, s *subject, f *follower) error {
	content, err := json.Marshal(map[string]any{"query": liveSubscription})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+"/graphql", bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Authorization", "Bearer "+s.key)
	var dialer net.Dialer
	if f.conn, err = dialer.DialContext(ctx, "tcp", s.addr); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	in := bufio.NewReader(f.conn)
	fail := func(err error) error { return errors.Join(err, f.conn.Close()) }
	if err := request.Write(f.conn); err != nil {
		return fail(fmt.Errorf("send: %w", err))
	}
	response, err := http.ReadResponse(in, request) //nolint:bodyclose // the connection is closed instead
	if err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	lines := bufio.NewReader(response.Body)
	if first, err := lines.ReadString('\n'); err != nil || response.StatusCode != http.StatusOK || first != ":\n" {
		return fail(errors.Join(fmt.Errorf("answered %s, %q", response.Status, first), err))
	}
	f.read = func() ([]byte, error) {
		for {
			line, err := lines.ReadBytes('\n')
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok || err != nil {
				return data, err
			}
		}
	}
	return nil
}
