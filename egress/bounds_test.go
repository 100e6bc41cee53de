package egress_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// Hundreds of attempts at once against receivers that send without end cost
// little memory each and end in time. The receivers run in this process too, so
// the bound is for both sides together. Not parallel: it measures the whole heap.
func TestHostileReceiversCostLittleMemory(t *testing.T) {
	const attempts = 100
	const bound = 100 << 20
	const slack = 3 * time.Second // two cores are shared by both sides, and by other tests
	tests := map[string]struct {
		answer  receivertest.Answer
		options []receivertest.Option
	}{
		"endless body":           {receivertest.EndlessBody(200), nil},
		"endless body, HTTP/2":   {receivertest.EndlessBody(200), []receivertest.Option{receivertest.HTTP2()}},
		"gzip bomb":              {receivertest.GzipBomb(200, 1<<40), nil},
		"gzip of nothing":        {receivertest.GzipNothing(200), nil},
		"endless headers":        {receivertest.EndlessHeaders(), nil},
		"1xx flood":              {receivertest.InformationalFlood(), nil},
		"huge headers":           {receivertest.HugeHeader(200, 1<<20), nil},
		"drip":                   {receivertest.DripBody(200, 20*time.Millisecond), nil},
		"hang in body, HTTP/2":   {receivertest.HangIn(200, "begin"), []receivertest.Option{receivertest.HTTP2()}},
		"hang before the header": {receivertest.Hang(), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			receiver := receivertest.New(t, append(test.options, receivertest.Default(test.answer))...)
			client := newClient(t, receiver)
			request := newRequest(t, receiver.URL(), time.Second)
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)

			var peak atomic.Uint64
			var late atomic.Int64
			var group sync.WaitGroup
			for range attempts {
				group.Go(func() {
					result := client.Do(t.Context(), request)
					if result.Timing.Total > request.Timeout+slack {
						late.Add(1)
					}
				})
			}
			done := make(chan struct{})
			var watching sync.WaitGroup
			watching.Go(func() {
				ticker := time.NewTicker(20 * time.Millisecond)
				defer ticker.Stop()
				for {
					select {
					case <-done:
						return
					case <-ticker.C:
						var now runtime.MemStats
						runtime.ReadMemStats(&now)
						peak.Store(max(peak.Load(), now.HeapInuse+now.StackInuse))
					}
				}
			})
			group.Wait()
			close(done)
			watching.Wait()
			grown := int64(peak.Load()) - int64(before.HeapInuse+before.StackInuse)
			t.Logf("%d attempts at once: %d MiB more", attempts, grown>>20)
			require.Less(t, grown, int64(bound))
			require.Zero(t, late.Load(), "attempts that ended late")
		})
	}
}

// What a receiver sends between attempts, when nobody listens, ends with its
// connection.
func TestFloodOnAKeptConnectionEndsIt(t *testing.T) {
	t.Parallel()
	flood := receivertest.H2PingFlood()
	ended := make(chan struct{})
	receiver := receivertest.New(t, receivertest.RawHTTP2(func(ctx context.Context, conn *receivertest.H2Conn, stream uint32) {
		conn.Headers(stream, true, ":status", "200")
		flood(ctx, conn, stream)
		close(ended)
	}))
	require.Equal(t, egress.Success, do(t, newClient(t, receiver), newRequest(t, receiver.URL(), ample)).Outcome)
	select {
	case <-ended:
	case <-time.After(ample):
		t.Fatal("the flood goes on")
	}
}
