package queue

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
)

func slogDiscard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestStopInterruptsTheWait(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		s := NewServer(conn, ServerOptions{Handler: (&pickedUp{}).handle, Logger: slogDiscard()})
		require.NoError(t, s.Start())
		id := deliveryIDs(1) // proves that it is working, and is waiting again afterwards
		require.NoError(t, conn.Enqueue(t.Context(), itemsOf(id)))
		start := time.Now()
		s.Stop()
		assert.Less(t, time.Since(start), maxPickupWait/2)
		s.Stop()
	})
}

func TestStopWithoutStart(t *testing.T) {
	t.Parallel()
	NewServer(open(t, ""), ServerOptions{Handler: (&pickedUp{}).handle, Logger: slogDiscard()}).Stop()
}

func TestStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		started, release, got := make(chan struct{}), make(chan struct{}), &pickedUp{}
		s := serve(t, conn, func(ctx context.Context, ids []string) error {
			close(started)
			<-release
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return got.handle(ctx, ids)
		})
		ids := deliveryIDs(1)
		require.NoError(t, conn.Enqueue(t.Context(), itemsOf(ids)))
		<-started
		stopped := make(chan struct{})
		go func() { s.Stop(); close(stopped) }()
		<-s.pickup.stopped
		close(release)
		<-stopped
		assert.Equal(t, 1, got.times(ids[0]))
		sizes, err := conn.Sizes(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Sizes{}, sizes)
	})
}

func TestStopHandsBackWhatOutlastsTheGrace(t *testing.T) {
	t.Parallel()
	for name, obedient := range map[string]bool{"handler obeys": true, "handler does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothQueues(t, func(t *testing.T, conn *Conn) {
				started, release := make(chan struct{}), make(chan struct{})
				t.Cleanup(func() { close(release) })
				s := NewServer(conn, ServerOptions{
					Handler: func(ctx context.Context, _ []string) error {
						close(started)
						if obedient {
							<-ctx.Done()
							return context.Cause(ctx)
						}
						<-release
						return nil
					},
					Logger: slogDiscard(), ShutdownTimeout: 50 * time.Millisecond,
				})
				require.NoError(t, s.Start())
				ids := deliveryIDs(1)
				require.NoError(t, conn.Enqueue(t.Context(), itemsOf(ids)))
				<-started
				s.Stop()

				got := &pickedUp{}
				serve(t, conn, got.handle)
				got.wait(t, 5*time.Second, ids...)
			})
		})
	}
}

// asynq gives a task up when its lease is lost or an operator cancels it, both by ending its
// context. The attempt goes on: the claim in the database is what guards it.
func TestHandlerOutlivesItsTask(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		started, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		var calls atomic.Int32
		serve(t, conn, func(ctx context.Context, _ []string) error {
			if calls.Add(1) == 1 {
				close(started)
				<-release
				ended <- ctx.Err()
			}
			return nil
		})
		now := time.Now()
		tasks := tasksOf(itemsOf(deliveryIDs(1)), now, "")
		require.NoError(t, conn.put(t.Context(), tasks))
		<-started
		inspector := asynq.NewInspector(conn.ConnOpt())
		defer func() { _ = inspector.Close() }()
		// Repeated, because asynq may not have subscribed yet. The task comes back meanwhile.
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			err := inspector.CancelProcessing(tasks[0].id)
			return calls.Load() > 1, fmt.Sprint(err)
		})
		close(release)
		require.NoError(t, <-ended)
	})
}

func TestStopOnAStoppedRedis(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	conn := open(t, server.url())
	started, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s := serve(t, conn, func(ctx context.Context, _ []string) error {
		close(started)
		<-release
		ended <- ctx.Err()
		return nil
	})
	require.NoError(t, conn.Enqueue(t.Context(), itemsOf(deliveryIDs(1))))
	<-started
	server.signal(syscall.SIGSTOP)
	defer server.signal(syscall.SIGCONT)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { return conn.Degraded() != nil, "not degraded" })
	// Stop must end though Redis does not answer, and must wait for the handler.
	stopped := make(chan struct{})
	go func() { s.Stop(); close(stopped) }()
	<-s.pickup.stopped
	close(release)
	require.NoError(t, <-ended)
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("stop hangs on a Redis that is stopped")
	}
}

// asynq subscribes when it starts, and cannot be stopped before it has an answer.
func TestStopBeforeRedisAnswered(t *testing.T) {
	t.Parallel()
	wire := startProxy(t, startRedis(t).port, "asynq:cancel")
	conn := open(t, wire.url())
	s := serve(t, conn, func(context.Context, []string) error { return nil })
	stopped := make(chan struct{})
	go func() { s.Stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Error("stop hangs on a subscription without an answer")
		wire.cut() // else the cleanup hangs, too
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	conn := open(t, "")
	var running, most atomic.Int32
	got := &pickedUp{}
	s := NewServer(conn, ServerOptions{Concurrency: 3, Logger: slogDiscard(), Handler: func(ctx context.Context, ids []string) error {
		n := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		return got.handle(ctx, ids)
	}})
	ids := deliveryIDs(40 * maxBundle)
	require.NoError(t, conn.Enqueue(t.Context(), itemsOf(ids)))
	require.NoError(t, s.Start())
	t.Cleanup(s.Stop)
	got.wait(t, 10*time.Second, ids...)
	assert.LessOrEqual(t, most.Load(), int32(3))
}

// D1: pick-up is a matter of a millisecond though nobody polls.
func TestPickupIsInstant(t *testing.T) { //nolint:tparallel // one after the other: it measures
	t.Parallel()
	server := startRedis(t)
	embedded := open(t, "")
	one := open(t, server.url())
	cases := map[string]struct{ worker, caller *Conn }{
		"embedded":          {embedded, embedded},
		"redis":             {one, one},
		"between processes": {open(t, server.url()), open(t, server.url())},
	}
	for name, c := range cases {
		// One after the other: the figure is that of an idle machine.
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // measures
			got := &pickedUp{}
			s := serve(t, c.worker, got.handle)
			warm := deliveryIDs(1)
			require.NoError(t, c.caller.Enqueue(t.Context(), itemsOf(warm)))
			got.wait(t, 5*time.Second, warm...)
			var waits []time.Duration
			for _, id := range deliveryIDs(60) {
				start := time.Now()
				require.NoError(t, c.caller.Enqueue(t.Context(), itemsOf([]string{id})))
				got.wait(t, 5*time.Second, id)
				waits = append(waits, got.when(id).Sub(start))
			}
			slices.Sort(waits)
			t.Logf("pick-up p50 %s, p90 %s, max %s", waits[30], waits[54], waits[59])
			// Polling would show as half a second; the bound leaves room for a busy machine.
			assert.Less(t, waits[30], pollInterval/4)
			s.Stop()
		})
	}
}

// A wake between the empty answer and the wait must not be lost.
func TestNoWakeIsLost(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		got := &pickedUp{}
		serve(t, conn, got.handle)
		late := 0
		for i := range 400 {
			id := deliveryIDs(1)
			start := time.Now()
			conn.EnqueueAsync(itemsOf(id))
			testenv.Eventually(t, 5*time.Second, func() (bool, string) { return got.times(id[0]) > 0, fmt.Sprint("item ", i) })
			if time.Since(start) > pollInterval*3/4 {
				late++
			}
		}
		assert.Zero(t, late)
	})
}
