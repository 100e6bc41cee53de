package e2e

import (
	"cmp"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/internal/testenv"
)

// neverFails demands that no emit failed since then, and gives their p99.
func (w *world) neverFails(since time.Time) time.Duration {
	w.t.Helper()
	accepted, failed, slowest := w.counts(since)
	w.mu.Lock()
	var took []time.Duration
	for _, c := range w.books.calls {
		if !c.sent.Before(since) {
			took = append(took, c.answered.Sub(c.sent))
		}
	}
	w.mu.Unlock()
	slices.SortFunc(took, cmp.Compare)
	p99 := took[len(took)*99/100]
	w.t.Logf("%d accepted, failed %v, p99 %s, slowest %s", accepted, failed, p99.Round(time.Millisecond), slowest.Round(time.Millisecond))
	require.Empty(w.t, failed, "emits never fail for it")
	return p99
}

// client is another client of the world's Redis.
func (w *world) client() *redis.Client {
	w.t.Helper()
	options, err := redis.ParseURL(w.redis.URL())
	require.NoError(w.t, err)
	client := redis.NewClient(options)
	w.t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestFault23_RedisRestartedWithoutPersistence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	for range either(2, 20) {
		w.redis.Kill()
		w.pass(500 * time.Millisecond)
		w.redis.Restart()
		w.accept(20)
	}
	l.end(t)
	w.neverFails(began)
	w.settle(60 * time.Second)
	require.Zero(t, w.abandoned(), "the loss of the queue breaks no attempt off")
	require.Zero(t, w.twice())
}

func TestFault24_RedisFlushed(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, client *redis.Client){
		"FLUSHALL": func(t *testing.T, client *redis.Client) {
			t.Helper()
			require.NoError(t, client.FlushAll(t.Context()).Err())
		},
		"single keys": func(t *testing.T, client *redis.Client) {
			t.Helper()
			keys, err := client.Keys(t.Context(), "asynq:*").Result()
			require.NoError(t, err)
			for _, key := range keys {
				if rand.IntN(2) == 0 {
					require.NoError(t, client.Del(t.Context(), key).Err())
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plan{stack: apptest.Production})
			client := w.client()
			l := w.emit(40)
			w.accept(20)
			began := time.Now()
			for range either(10, 200) {
				w.accept(5)
				harm(t, client)
			}
			l.end(t)
			w.neverFails(began)
			w.settle(60 * time.Second)
			require.Zero(t, w.abandoned())
			require.Zero(t, w.twice())
		})
	}
}

func TestFault25_RedisStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	l := w.emit(40)
	w.accept(20)
	began := time.Now()
	w.redis.Pause()
	w.pass(either(5*time.Second, 60*time.Second))
	p99 := w.neverFails(began)
	require.Less(t, p99, either(50*time.Millisecond+slack, 50*time.Millisecond))
	before := len(w.logged("healthy"))
	w.redis.Resume()
	apptest.EventuallyWithin(t, 10*time.Second, func() (bool, string) {
		return len(w.logged("healthy")) > before, "no attempt since Redis is back"
	})
	w.accept(20)
	l.end(t)
	w.neverFails(began)
	w.settle(60 * time.Second)
}

// A network that delays or swallows what is said to Redis is no concern of emitters either.
func TestFault25_RedisSlowAndHalfOpen(t *testing.T) {
	t.Parallel()
	var proxy *testenv.Proxy
	w := newWorld(t, plan{stack: apptest.Production, throughRedis: func(url string) string {
		proxy = testenv.NewProxy(t, url)
		return proxy.URL(url)
	}})
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	proxy.Latency(500 * time.Millisecond)
	w.pass(either(3*time.Second, 60*time.Second))
	proxy.Heal()
	proxy.Stall()
	w.pass(either(3*time.Second, 60*time.Second))
	proxy.Heal()
	proxy.Reset()
	w.accept(20)
	l.end(t)
	require.Less(t, w.neverFails(began), either(50*time.Millisecond+slack, 50*time.Millisecond))
	w.settle(60 * time.Second)
}

func TestFault26_RedisOutOfMemory(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"noeviction", "allkeys-lru"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plan{stack: apptest.Production, redis: []string{"--maxmemory", "8mb", "--maxmemory-policy", policy}})
			client := w.client()
			l := w.emit(20)
			w.accept(20)
			began := time.Now()
			for n := range either(2000, 20000) {
				// Refused where nothing may be evicted: then it is full.
				_ = client.Set(t.Context(), "other:"+string(rune('a'+n%26))+strings.Repeat("x", n%7)+time.Now().String(), strings.Repeat("x", 16<<10), 0).Err()
			}
			w.pass(either(2*time.Second, 60*time.Second))
			others, err := client.Keys(t.Context(), "other:*").Result()
			require.NoError(t, err)
			require.NotEmpty(t, others)
			require.NoError(t, client.Del(t.Context(), others...).Err())
			w.accept(20)
			l.end(t)
			w.neverFails(began)
			w.settle(60 * time.Second)
		})
	}
}

func TestFault27_RedisReadOnlyAndWrongTypes(t *testing.T) { //nolint:tparallel // one after the other, in one world
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	client := w.client()
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	t.Run("a replica", func(t *testing.T) {
		require.NoError(t, client.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
		w.pass(either(3*time.Second, 30*time.Second))
		code, body := get(t, w.api().URL+"/readyz", nil)
		require.Equal(t, http.StatusOK, code, "emits are served")
		require.Contains(t, body, `"status":"degraded"`)
		require.NoError(t, client.ReplicaOf(t.Context(), "NO", "ONE").Err())
	})
	t.Run("a key of another type", func(t *testing.T) {
		pending := "asynq:{deliveries}:pending"
		require.NoError(t, client.Set(t.Context(), pending, "not a list", 0).Err())
		w.pass(either(3*time.Second, 30*time.Second))
		require.NoError(t, client.Del(t.Context(), pending).Err())
	})
	w.accept(20)
	l.end(t)
	w.neverFails(began)
	w.settle(60 * time.Second)
}

// Whatever is put into the queue, nothing is sent for it that the database does not want.
func TestFault28_TasksDuplicatedForgedAndBroken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	options, err := asynq.ParseRedisURI(w.redis.URL())
	require.NoError(t, err)
	client := asynq.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	const canary = "canary-5c1b"
	l := w.emit(20)
	w.accept(either(40, 2000))
	for range either(2, 20) {
		for _, d := range deliveries(t, w.api(), nil) {
			for range 3 {
				_, err := client.Enqueue(asynq.NewTask("delivery", []byte(`{"v":1,"ids":["`+d.ID+`"]}`)), asynq.Queue("deliveries"))
				require.NoError(t, err)
			}
		}
		for _, payload := range []string{
			canary, `{"v":2,"ids":["dlv_` + canary + `"]}`, `{"v":1,"ids":[]}`, `{"v":1,"ids":["evt_1"]}`, "",
			`{"v":1,"ids":["dlv_01ARZ3NDEKTSV4RRFFQ69G5FAV"]}`, `{"v":1,"ids":["` + strings.Repeat("x", 20<<10) + `"]}`,
		} {
			_, err := client.Enqueue(asynq.NewTask("delivery", []byte(payload)), asynq.Queue("deliveries"))
			require.NoError(t, err)
		}
		_, err := client.Enqueue(asynq.NewTask("something-else", []byte(canary)), asynq.Queue("deliveries"))
		require.NoError(t, err)
		w.accept(10)
	}
	l.end(t)
	w.settle(60 * time.Second)
	require.Zero(t, w.twice(), "extra requests")
	for _, p := range append(slices.Clone(w.workers), w.apis...) {
		require.NotContains(t, p.stderr.String(), canary, "what cannot be read is logged without its content")
		require.False(t, p.ended())
	}
}

// A task that is kept under a delivery's own id refuses every later one of that id: the delivery
// comes due all the same.
func TestFault29_TaskArchivedUnderTheDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	options, err := asynq.ParseRedisURI(w.redis.URL())
	require.NoError(t, err)
	inspector := asynq.NewInspector(options)
	t.Cleanup(func() { _ = inspector.Close() })
	l := w.emit(20)
	w.accept(20)
	archived := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range either(400, 6000) {
		<-tick.C
		for _, archive := range []func(string) (int, error){inspector.ArchiveAllPendingTasks, inspector.ArchiveAllScheduledTasks, inspector.ArchiveAllRetryTasks} {
			n, err := archive("deliveries")
			require.NoError(t, err)
			archived += n
		}
	}
	t.Logf("%d tasks archived", archived)
	require.NotZero(t, archived)
	l.end(t)
	w.settle(60 * time.Second)
	require.Zero(t, w.twice())
}
