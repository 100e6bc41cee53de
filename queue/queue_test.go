package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
)

func TestEnqueuedIsPickedUpInBundles(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		ids := deliveryIDs(100)
		require.NoError(t, conn.Enqueue(t.Context(), itemsOf(ids)))
		got := &pickedUp{}
		serve(t, conn, got.handle)
		got.wait(t, 5*time.Second, ids...)

		var sizes []int
		for _, b := range got.all() {
			sizes = append(sizes, len(b))
		}
		slices.Sort(sizes)
		assert.Equal(t, []int{4, 32, 32, 32}, sizes)
		testenv.Eventually(t, 5*time.Second, func() (bool, string) {
			s, err := conn.Sizes(t.Context())
			return err == nil && s == Sizes{}, fmt.Sprint(s, err)
		})
	})
}

func TestOneIsATaskOfItsOwn(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		got := &pickedUp{}
		serve(t, conn, got.handle)
		for _, id := range deliveryIDs(20) {
			require.NoError(t, conn.Enqueue(t.Context(), itemsOf([]string{id})))
			got.wait(t, 5*time.Second, id)
		}
		for _, b := range got.all() {
			assert.Len(t, b, 1)
		}
	})
}

func TestEnqueueAsync(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		got := &pickedUp{}
		serve(t, conn, got.handle)
		ids := deliveryIDs(500)
		for _, id := range ids {
			conn.EnqueueAsync(itemsOf([]string{id}))
		}
		got.wait(t, 5*time.Second, ids...)
		assert.Equal(t, Counters{Enqueued: 500}, conn.Counters())
	})
}

func TestScheduledComesAtItsTime(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		got := &pickedUp{}
		s := serve(t, conn, got.handle)
		// From asynq's first round on, due tasks are moved to the millisecond.
		testenv.Eventually(t, 5*time.Second, func() (bool, string) { return s.pickup.forward.Load() != nil, "no forward yet" })
		ids := deliveryIDs(8)
		start := time.Now()
		items := make([]Item, len(ids))
		for i, id := range ids {
			items[i] = Item{DeliveryID: id, Attempt: 1, At: start.Add(time.Duration(700-90*i) * time.Millisecond)}
		}
		require.NoError(t, conn.Enqueue(t.Context(), items))
		got.wait(t, 5*time.Second, ids...)
		for _, it := range items {
			late := got.when(it.DeliveryID).Sub(it.At)
			assert.GreaterOrEqual(t, late, time.Duration(0), "early")
			assert.Less(t, late, 2*time.Second)
			assert.Equal(t, 1, got.times(it.DeliveryID))
		}
	})
}

// A Redis that takes long over what is due is not asked for every task by itself.
func TestMovingDueTasksLeavesTimeForOthers(t *testing.T) {
	t.Parallel()
	conn := open(t, "")
	got := &pickedUp{}
	s := serve(t, conn, got.handle)
	testenv.Eventually(t, 5*time.Second, func() (bool, string) { return s.pickup.forward.Load() != nil, "no forward yet" })
	var asked atomic.Int32
	conn.client.AddHook(countHook{func(args []any) { // asynq's own rounds go another way
		if parseScript(args).kind == scriptForward {
			asked.Add(1)
			<-time.After(20 * time.Millisecond)
		}
	}})
	ids := deliveryIDs(250)
	start := time.Now()
	items := make([]Item, len(ids))
	for i, id := range ids {
		items[i] = Item{DeliveryID: id, Attempt: 1, At: start.Add(time.Duration(200+4*i) * time.Millisecond)}
	}
	require.NoError(t, conn.Enqueue(t.Context(), items))
	got.wait(t, 10*time.Second, ids...)
	most := int32(time.Since(start)/((1+forwardRest)*20*time.Millisecond)) + 2
	require.LessOrEqual(t, asked.Load(), most)
}

// What was scheduled before asynq's first round, or while Redis is away, is looked for again, not forgotten.
func TestPace_LooksAgain(t *testing.T) {
	t.Parallel()
	p := &pickup{conn: open(t, "")}
	require.False(t, p.forwardDue(t.Context()).IsZero())
}

func TestScheduledByAnotherProcess(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	got := &pickedUp{}
	serve(t, open(t, server.url()), got.handle)
	id := deliveryIDs(1)[0]
	at := time.Now().Add(300 * time.Millisecond)
	require.NoError(t, open(t, server.url()).Enqueue(t.Context(), []Item{{DeliveryID: id, At: at}}))
	got.wait(t, 5*time.Second, id)
	late := got.when(id).Sub(at)
	assert.GreaterOrEqual(t, late, time.Duration(0), "early")
	assert.Less(t, late, 2*time.Second)
}

// What is due is said by the clock that the queue was given, however wrong the process's own is.
func TestScheduledByTheClockThatIsGiven(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, url := range []string{"", startRedis(t).url()} {
				log, _ := newLog(t)
				given := func() time.Time { return time.Now().Add(-wrong) } // what a right clock shows where ours is wrong
				conn, err := Open(t.Context(), Options{RedisURL: url, Logger: log, Now: given})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, conn.Close()) })
				got := &pickedUp{}
				serve(t, conn, got.handle)
				ids := deliveryIDs(3)
				at := given().Add(300 * time.Millisecond)
				require.NoError(t, conn.Enqueue(t.Context(), []Item{
					{DeliveryID: ids[0]}, {DeliveryID: ids[1], Attempt: 1, At: at}, {DeliveryID: ids[2], Attempt: 1, At: at.Add(time.Minute)},
				}))
				got.wait(t, 10*time.Second, ids[:2]...)
				late := got.when(ids[1]).Add(-wrong).Sub(at)
				assert.GreaterOrEqual(t, late, time.Duration(0), "early")
				assert.Zero(t, got.times(ids[2]))
				sizes, err := conn.Sizes(t.Context())
				require.NoError(t, err)
				assert.EqualValues(t, 1, sizes.Scheduled)
			}
		})
	}
}

func TestDuplicatesShareATask(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		now := time.Now()
		ids := deliveryIDs(2)
		due, later := Item{DeliveryID: ids[0], Attempt: 2}, Item{DeliveryID: ids[1], Attempt: 2, At: now.Add(time.Hour)}
		for range 3 {
			require.NoError(t, conn.put(t.Context(), tasksOf([]Item{due, later}, now, "")))
		}
		s, err := conn.Sizes(t.Context())
		require.NoError(t, err)
		assert.EqualValues(t, 1, s.Pending)
		assert.EqualValues(t, 1, s.Scheduled)
		assert.EqualValues(t, 4, conn.Counters().Conflicts)
		assert.WithinDuration(t, now, s.OldestPending, 5*time.Second)

		// Due earlier than the task that is there: it must not wait for that.
		later.At = now.Add(time.Hour - time.Duration(now.Add(time.Hour).Second())*time.Second)
		if !later.At.Equal(now.Add(time.Hour)) {
			require.NoError(t, conn.put(t.Context(), tasksOf([]Item{later}, now, "")))
			s, err = conn.Sizes(t.Context())
			require.NoError(t, err)
			assert.EqualValues(t, 2, s.Scheduled)
		}
	})
}

func TestTaskIDHeldByADeadTask(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		now := time.Now()
		id := deliveryIDs(1)[0]
		item := Item{DeliveryID: id, Attempt: 1}
		require.NoError(t, conn.put(t.Context(), tasksOf([]Item{item}, now, "")))
		inspector := asynq.NewInspector(conn.ConnOpt())
		defer func() { _ = inspector.Close() }()
		require.NoError(t, inspector.ArchiveTask(queueName, singleID(item, now)))

		got := &pickedUp{}
		serve(t, conn, got.handle)
		require.NoError(t, conn.put(t.Context(), tasksOf([]Item{item}, now, "")))
		got.wait(t, 5*time.Second, id)
	})
}

func TestHandlerMayEnqueueItsOwnDeliveryAgain(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		// The claim found it not due yet: the same delivery, attempt and minute once more.
		got := &pickedUp{}
		var first atomic.Bool
		id := deliveryIDs(1)[0]
		now := time.Now()
		serve(t, conn, func(ctx context.Context, ids []string) error {
			if first.CompareAndSwap(false, true) {
				return conn.put(ctx, tasksOf(itemsOf(ids), now, ""))
			}
			return got.handle(ctx, ids)
		})
		require.NoError(t, conn.put(t.Context(), tasksOf(itemsOf([]string{id}), now, "")))
		got.wait(t, 5*time.Second, id)
	})
}

func TestGarbageIsArchivedOnce(t *testing.T) {
	t.Parallel()
	const secret = "canary-4711"
	cases := map[string]*asynq.Task{
		"not json":            asynq.NewTask(taskType, []byte(secret)),
		"empty":               asynq.NewTask(taskType, nil),
		"future version":      asynq.NewTask(taskType, []byte(`{"v":2,"ids":["`+deliveryIDs(1)[0]+`"]}`)),
		"foreign ids":         asynq.NewTask(taskType, []byte(`{"v":1,"ids":["`+secret+`"]}`)),
		"foreign type":        asynq.NewTask(secret, []byte(`{}`)),
		"more ids than ours":  asynq.NewTask(taskType, []byte(`{"v":1,"ids":["`+strings.Join(deliveryIDs(33), `","`)+`"]}`)),
		"larger than we read": asynq.NewTask(taskType, []byte(`{"v":1,"x":"`+strings.Repeat("x", maxPayload)+`"}`)),
	}
	bothQueues(t, func(t *testing.T, conn *Conn) {
		log, out := newLog(t)
		got := &pickedUp{}
		s := NewServer(conn, ServerOptions{Handler: got.handle, Logger: log})
		require.NoError(t, s.Start())
		t.Cleanup(s.Stop)
		client := asynq.NewClientFromRedisClient(conn.Client())
		for _, task := range cases {
			_, err := client.Enqueue(task, asynq.Queue(queueName))
			require.NoError(t, err)
		}
		testenv.Eventually(t, 5*time.Second, func() (bool, string) {
			s, err := conn.Sizes(t.Context())
			return err == nil && s == Sizes{Archived: int64(len(cases))}, fmt.Sprint(s, err)
		})
		assert.Zero(t, got.distinct())
		assert.Equal(t, len(cases), strings.Count(out.String(), "unreadable task archived"))
		assert.NotContains(t, out.String(), secret)
		for _, task := range cases {
			assert.NotContains(t, FormatPayload(task.Type(), task.Payload()), secret)
		}
	})
}

func TestHandlerErrorComesBack(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		got := &pickedUp{}
		var calls atomic.Int32
		serve(t, conn, func(ctx context.Context, ids []string) error {
			switch calls.Add(1) {
			case 1:
				return errors.New("database is away")
			case 2:
				panic("a bug")
			}
			return got.handle(ctx, ids)
		})
		ids := deliveryIDs(3)
		require.NoError(t, conn.Enqueue(t.Context(), itemsOf(ids)))
		got.wait(t, 20*time.Second, ids...)
	})
}

// The hook recognises asynq's scripts by their keys; this fails when a release changes them.
func TestAsynqSpeaksAsWeExpect(t *testing.T) {
	t.Parallel()
	bothQueues(t, func(t *testing.T, conn *Conn) {
		id := deliveryIDs(1)[0]
		at := time.Now().Add(time.Hour).Truncate(time.Second).Add(250 * time.Millisecond)
		tasks := tasksOf([]Item{{DeliveryID: id, At: at}}, time.Now(), "")
		call, err := conn.encode(t.Context(), tasks[0], tasks[0].id)
		require.NoError(t, err)
		require.Equal(t, scriptSchedule, parseScript(call.args).kind)
		require.NoError(t, conn.store(t.Context(), tasks))
		due, err := conn.encode(t.Context(), task{id: "now", items: tasks[0].items}, "now")
		require.NoError(t, err)
		require.Equal(t, scriptEnqueue, parseScript(due.args).kind)

		inspector := asynq.NewInspector(conn.ConnOpt())
		defer func() { _ = inspector.Close() }()
		info, err := inspector.GetTaskInfo(queueName, tasks[0].id)
		require.NoError(t, err)
		assert.Equal(t, at.Unix(), info.NextProcessAt.Unix())
		assert.Equal(t, maxRetry, info.MaxRetry)
		assert.Equal(t, timeout, info.Timeout)
		assert.Equal(t, `{"v":1,"ids":["`+id+`"]}`, FormatPayload(info.Type, info.Payload))
		scored, err := conn.Client().ZScore(t.Context(), keyScheduled, tasks[0].id).Result()
		require.NoError(t, err)
		assert.InDelta(t, float64(at.UnixMilli())/1000, scored, 0.0005)
		queue, err := inspector.GetQueueInfo(queueName)
		require.NoError(t, err)
		assert.Equal(t, 1, queue.Scheduled)

		var dequeues, forwards, recoveries atomic.Int32
		client := conn.hooked(countHook{func(args []any) {
			switch parseScript(args).kind {
			case scriptDequeue:
				dequeues.Add(1)
			case scriptForward:
				forwards.Add(1)
			case scriptExpired:
				recoveries.Add(1)
			case scriptOther, scriptEnqueue, scriptSchedule:
			}
		}})
		log, _ := newLog(t)
		srv := asynq.NewServerFromRedisClient(client, asynq.Config{
			Queues: map[string]int{queueName: 1}, DelayedTaskCheckInterval: 10 * time.Millisecond,
			TaskCheckInterval: 10 * time.Millisecond, Logger: &asynqLogger{log: log, conn: conn},
		})
		require.NoError(t, srv.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { return nil })))
		defer srv.Shutdown()
		testenv.Eventually(t, 5*time.Second, func() (bool, string) {
			return dequeues.Load() > 0 && forwards.Load() > 1 && recoveries.Load() > 0,
				fmt.Sprint(dequeues.Load(), forwards.Load(), recoveries.Load())
		})
	})
}

// countHook shows the arguments of each command to see.
type countHook struct{ see func(args []any) }

func (countHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (countHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h countHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.see(cmd.Args())
		return next(ctx, cmd)
	}
}

func TestOpenRefusesBadURLs(t *testing.T) {
	t.Parallel()
	log, _ := newLog(t)
	for _, url := range []string{
		"http://:s3cret@localhost:6379", "redis://:s3cret@localhost:port", "s3cret", "redis://:s3cret@host/notanumber",
		"redis://:s3cret%zz@host", "unix:///s3cret",
	} {
		_, err := Open(t.Context(), Options{RedisURL: url, Logger: log})
		require.Error(t, err, url)
		assert.NotContains(t, err.Error(), "s3cret")
	}
}

func TestEmbeddedExpiresKeys(t *testing.T) {
	t.Parallel()
	conn := open(t, "")
	assert.True(t, conn.Embedded())
	require.NoError(t, conn.Ping(t.Context()))
	require.NoError(t, conn.Client().Set(t.Context(), "brief", "x", time.Second).Err())
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		n, err := conn.Client().Exists(t.Context(), "brief").Result()
		return err == nil && n == 0, fmt.Sprint(n, err)
	})
	bare := redis.NewClient(&redis.Options{Addr: conn.redisOpt.Addr, MaxRetries: -1})
	defer func() { _ = bare.Close() }()
	require.ErrorContains(t, bare.Ping(t.Context()).Err(), "NOAUTH")
}

func TestEvictingPolicyIsWarnedOf(t *testing.T) {
	t.Parallel()
	server := startRedis(t, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
	log, out := newLog(t)
	openWith(t, Options{RedisURL: server.url(), Logger: log})
	assert.Contains(t, out.String(), "allkeys-lru")
}

func TestClosedRefuses(t *testing.T) {
	t.Parallel()
	conn := open(t, "")
	require.NoError(t, conn.Close())
	require.NoError(t, conn.Close())
	require.ErrorIs(t, conn.Enqueue(t.Context(), itemsOf(deliveryIDs(1))), ErrClosed)
}

// The embedded Redis never shows a time before the one at which it was asked, however many ask at once: rates
// are counted by it.
func TestEmbedded_TheTimeIsOfTheAskOrLater(t *testing.T) {
	t.Parallel()
	conn := open(t, "")
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 500 {
				asked := time.Now()
				at, err := conn.Client().Time(context.Background()).Result()
				if !assert.NoError(t, err) || !assert.WithinRange(t, at, asked.Truncate(time.Microsecond), time.Now()) {
					return
				}
			}
		})
	}
	all.Wait()
}
