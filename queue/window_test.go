package queue

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
)

// fewHeld is how many tasks the queues of these tests may hold.
const fewHeld = 512

func openSmall(t *testing.T) *Conn {
	t.Helper()
	conn := open(t, "")
	require.EqualValues(t, maxHeld, conn.window.most)
	conn.window.most = fewHeld
	return conn
}

// enqueueOneByOne makes each delivery due and enqueues it in a task of its own.
func enqueueOneByOne(t *testing.T, conn *Conn, ledger *memoryLedger, ids []string) {
	t.Helper()
	for _, id := range ids {
		ledger.add(time.Now(), id)
		require.NoError(t, conn.Enqueue(t.Context(), itemsOf([]string{id})))
	}
}

func held(t *testing.T, conn *Conn) int64 {
	t.Helper()
	sizes, err := conn.Sizes(t.Context())
	require.NoError(t, err)
	return sizes.Pending + sizes.Active + sizes.Scheduled
}

func TestWindow_ABacklogIsHeldInPart(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &memoryLedger{}, &pickedUp{}
	const extra = 1500
	ids := deliveryIDs(fewHeld + extra)
	enqueueOneByOne(t, conn, ledger, ids)
	// The last look may be a moment old, so that the edge is not sharp.
	require.InDelta(t, fewHeld, held(t, conn), 100)
	require.True(t, conn.window.behind.Load())

	reconcile(t, conn, ledger, time.Hour)
	serve(t, conn, ledger.claim(got))
	testenv.Eventually(t, 60*time.Second, func() (bool, string) {
		require.LessOrEqual(t, held(t, conn), int64(fewHeld+100))
		return got.distinct() == len(ids), fmt.Sprintf("%d of %d came", got.distinct(), len(ids))
	})
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { return !conn.window.behind.Load(), "still behind" })

	// Now that nothing is left out, what is new goes the direct way.
	enqueueOneByOne(t, conn, ledger, deliveryIDs(1))
	require.False(t, conn.window.behind.Load())
}

func TestWindow_OldestFirst(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &memoryLedger{}, &pickedUp{}
	// The first that a new queue gets lets it know the script; what comes meanwhile is sent again.
	first := deliveryIDs(1)
	enqueueOneByOne(t, conn, ledger, first)
	conn.window.fallBehind(time.Now())
	ids := deliveryIDs(2000)
	enqueueOneByOne(t, conn, ledger, ids)
	require.EqualValues(t, 1, held(t, conn), "newcomers overtake what was left out")
	ids = slices.Concat(first, ids)

	log, _ := newLog(t)
	s := NewServer(conn, ServerOptions{Handler: ledger.claim(got), Logger: log, Concurrency: 1, ShutdownTimeout: 5 * time.Second})
	require.NoError(t, s.Start())
	t.Cleanup(s.Stop)
	reconcile(t, conn, ledger, time.Hour)
	got.wait(t, 30*time.Second, ids...)
	var order []string
	seen := make(map[string]bool)
	for _, bundle := range got.all() {
		for _, id := range bundle {
			if !seen[id] { // some are enqueued twice
				order = append(order, id)
			}
			seen[id] = true
		}
	}
	require.True(t, slices.Equal(ids, order), "not in the order in which they became due")
}

func TestWindow_WhatIsForLaterComesAtItsTime(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &memoryLedger{}, &pickedUp{}
	reconcile(t, conn, ledger, time.Hour)
	serve(t, conn, ledger.claim(got))
	far := make([]Item, fewHeld/2)
	for i, id := range deliveryIDs(len(far)) {
		far[i] = Item{DeliveryID: id, At: time.Now().Add(time.Hour + time.Duration(i)*time.Millisecond)}
	}
	require.NoError(t, conn.Enqueue(t.Context(), far))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { n := held(t, conn); return n == fewHeld/2, strconv.FormatInt(n, 10) })

	at := time.Now().Add(1500 * time.Millisecond)
	late := deliveryIDs(3)
	ledger.add(at, late...)
	for _, id := range late {
		require.NoError(t, conn.Enqueue(t.Context(), []Item{{DeliveryID: id, At: at}}))
	}
	require.EqualValues(t, fewHeld/2, held(t, conn))
	now := deliveryIDs(1)
	enqueueOneByOne(t, conn, ledger, now)
	got.wait(t, 5*time.Second, now...)
	require.Empty(t, got.times(late[0]), "before its time")
	got.wait(t, 30*time.Second, late...)
	require.False(t, got.when(late[0]).Before(at), "before its time")
}

func TestWindow_AtStart(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &memoryLedger{}, &pickedUp{}
	ids := deliveryIDs(3 * refillSize)
	ledger.add(time.Now(), ids...)
	log, _ := newLog(t)
	r := NewReconciler(conn, ledger, ReconcilerOptions{PageSize: 100, Logger: log})
	require.NoError(t, r.pass(t.Context(), atStart))
	require.LessOrEqual(t, held(t, conn), int64(2*refillSize/maxBundle))
	require.Less(t, len(r.sent.entries), 2*refillSize)
	reconcile(t, conn, ledger, time.Hour)
	serve(t, conn, ledger.claim(got))
	got.wait(t, 60*time.Second, ids...)
}

// What finds no room on the way to the queue is fetched like what finds none in it.
func TestWindow_TooMuchOnTheWay(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &memoryLedger{}, &pickedUp{}
	reconcile(t, conn, ledger, time.Hour)
	serve(t, conn, ledger.claim(got))
	ids := deliveryIDs(2)
	soon := time.Now().Add(500 * time.Millisecond)
	ledger.add(time.Now(), ids[0])
	ledger.add(soon, ids[1])
	conn.outbox.mu.Lock()
	conn.outbox.items += maxOutbox
	conn.outbox.mu.Unlock()
	require.ErrorIs(t, conn.Enqueue(t.Context(), []Item{{DeliveryID: ids[0]}, {DeliveryID: ids[1], At: soon}}), ErrFull)
	conn.outbox.mu.Lock()
	conn.outbox.items -= maxOutbox
	conn.outbox.mu.Unlock()
	got.wait(t, 10*time.Second, ids...)
	require.False(t, got.when(ids[1]).Before(soon), "before its time")
}

// failingLedger fails to say what is due until it is told not to.
type failingLedger struct {
	*memoryLedger
	failing atomic.Bool
	failed  atomic.Int64
}

func (l *failingLedger) DueDeliveries(ctx context.Context, olderThan time.Duration, after models.DueCursor, limit int) ([]models.Due, error) {
	if l.failing.Load() {
		l.failed.Add(1)
		return nil, context.DeadlineExceeded
	}
	return l.memoryLedger.DueDeliveries(ctx, olderThan, after, limit)
}

func TestWindow_TheDatabaseFails(t *testing.T) {
	t.Parallel()
	conn, ledger, got := openSmall(t), &failingLedger{memoryLedger: &memoryLedger{}}, &pickedUp{}
	ledger.failing.Store(true)
	r := NewReconciler(conn, ledger, ReconcilerOptions{Interval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	serve(t, conn, ledger.claim(got))
	conn.window.fallBehind(time.Now())
	ids := deliveryIDs(10)
	enqueueOneByOne(t, conn, ledger.memoryLedger, ids)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { n := ledger.failed.Load(); return n > 3, strconv.FormatInt(n, 10) })
	ledger.failing.Store(false)
	got.wait(t, 10*time.Second, ids...)
	cancel()
	require.NoError(t, <-ended)
}

func TestWindow_PausedByAnOperator(t *testing.T) {
	t.Parallel()
	conn, ledger := openSmall(t), &memoryLedger{}
	log, _ := newLog(t)
	r := NewReconciler(conn, ledger, ReconcilerOptions{Logger: log})
	ledger.add(time.Now(), deliveryIDs(100)...)
	require.NoError(t, conn.client.Set(t.Context(), keyPaused, 1, 0).Err())
	conn.window.fallBehind(time.Now())
	for range 10 {
		r.refillSome(t.Context())
	}
	require.Zero(t, held(t, conn), "tasks that nobody takes pile up")
	require.True(t, conn.window.behind.Load())
	require.NoError(t, conn.client.Del(t.Context(), keyPaused).Err())
	r.refillSome(t.Context())
	require.EqualValues(t, 4, held(t, conn))
	require.False(t, conn.window.behind.Load())
}
