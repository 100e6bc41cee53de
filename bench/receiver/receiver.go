// Package receiver is the process that the benchmarks deliver to: it takes webhooks as fast as
// net/http can, and keeps when each webhook-id first arrived.
//
// A path names a book and says how its receiver behaves: /ok/<name> answers at once, /hang/<name>
// not before the sender gives up, /slow/<name> after two seconds. Under /-/ the benchmark reads
// what arrived. Times are the machine's wall clock, which sender and receiver share.
package receiver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// slowness is how long /slow/ takes.
	slowness = 2 * time.Second
	shards   = 32
	stopping = 2 * time.Second
)

// Run serves on a free port of 127.0.0.1, writes the address as the first line to out, and returns
// when ctx ends.
func Run(ctx context.Context, out io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: New(), ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopping)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			_ = server.Close() // those that hang are meant to
		}
	})
	if _, err := fmt.Fprintln(out, listener.Addr()); err != nil {
		return fmt.Errorf("tell the address: %w", err)
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Receiver counts what arrives. It is safe for concurrent use.
type Receiver struct {
	mu    sync.RWMutex
	books map[string]*book // by path
}

// book is what arrived at one path.
type book struct {
	shards [shards]struct {
		sync.Mutex
		first map[string]int64 // webhook-id → when it first arrived
		more  int              // requests with an id that had arrived before
		last  int64            // when the newest first one arrived
	}
}

// New makes an empty receiver.
func New() *Receiver { return &Receiver{books: map[string]*book{}} }

// ServeHTTP takes a webhook, or answers the benchmark.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	arrived := time.Now().UnixNano()
	path := request.URL.Path
	if command, ok := strings.CutPrefix(path, "/-/"); ok {
		r.control(w, command, request.URL.Query().Get("path"))
		return
	}
	r.book(path).add(request.Header.Get("Webhook-Id"), arrived)
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return // the sender is gone
	}
	var wait <-chan time.Time
	switch {
	case strings.HasPrefix(path, "/hang/"):
	case strings.HasPrefix(path, "/slow/"):
		wait = time.After(slowness)
	default:
		return
	}
	select {
	case <-wait:
	case <-request.Context().Done():
	}
}

// control answers /-/count?path= with "distinct repeated last", /-/arrivals?path= with a line
// "id time" for each, and /-/reset by forgetting everything. Times are Unix nanoseconds.
func (r *Receiver) control(w http.ResponseWriter, command, path string) {
	out := bufio.NewWriter(w)
	defer func() { _ = out.Flush() }()
	switch command {
	case "count":
		count, more, last := r.book(path).count()
		fmt.Fprintf(out, "%d %d %d\n", count, more, last)
	case "arrivals":
		r.book(path).each(func(id string, at int64) {
			_, _ = out.WriteString(id)
			_ = out.WriteByte(' ')
			_, _ = out.WriteString(strconv.FormatInt(at, 10))
			_ = out.WriteByte('\n')
		})
	case "reset":
		r.mu.Lock()
		defer r.mu.Unlock()
		clear(r.books)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (r *Receiver) book(path string) *book {
	r.mu.RLock()
	b := r.books[path]
	r.mu.RUnlock()
	if b != nil {
		return b
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b = r.books[path]; b == nil {
		b = &book{}
		for n := range b.shards {
			b.shards[n].first = map[string]int64{}
		}
		r.books[path] = b
	}
	return b
}

func (b *book) add(id string, at int64) {
	// The end of an id is its random part.
	place := 0
	if len(id) > 1 {
		place = int(id[len(id)-1])*7 + int(id[len(id)-2])
	}
	s := &b.shards[place%shards]
	s.Lock()
	defer s.Unlock()
	if _, again := s.first[id]; again {
		s.more++
		return
	}
	s.first[id] = at
	s.last = max(s.last, at)
}

func (b *book) count() (distinct, more int, last int64) {
	for n := range b.shards {
		s := &b.shards[n]
		s.Lock()
		distinct, more, last = distinct+len(s.first), more+s.more, max(last, s.last)
		s.Unlock()
	}
	return distinct, more, last
}

func (b *book) each(do func(id string, at int64)) {
	for n := range b.shards {
		s := &b.shards[n]
		s.Lock()
		for id, at := range s.first {
			do(id, at)
		}
		s.Unlock()
	}
}
