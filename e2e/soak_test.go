package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// Random faults, drawn at a seed that is printed, against the load, one after the other and with
// no pause: SOAK_SEED repeats a run's faults, SOAK_DURATION sets their time.
func TestSoak_RandomFaults(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SOAK_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SOAK_SEED")
	}
	duration := 30 * time.Second
	if text := os.Getenv("SOAK_DURATION"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err, "SOAK_DURATION")
	}
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, ownPostgres: stack == apptest.Production, callLimit: 4 * time.Second})
		w.books.patience = 0 // the API itself is stopped among other things
		draw := rand.New(rand.NewPCG(seed, 1))
		drawn := map[string]int{}
		l := w.emit(20)
		began := time.Now()
		for n := 1; time.Since(began) < duration; n++ {
			// All that a fault draws, it draws before it runs: how long it takes changes nothing.
			fault := w.faults()[draw.IntN(len(w.faults()))]
			victim, length, calm := draw.IntN(1000), time.Duration(draw.IntN(1500))*time.Millisecond, time.Duration(draw.IntN(1000))*time.Millisecond
			drawn[fault.name]++
			t.Logf("%s: %d. %s, victim %d, for %s", time.Since(began).Round(time.Millisecond), n, fault.name, victim, length)
			fault.do(victim, length)
			w.pass(calm)
		}
		l.end(t)
		accepted, failed, _ := w.counts(time.Time{})
		t.Logf("seed %d, %s, %s: %d events, %d calls failed, faults %v", seed, stack, time.Since(began).Round(time.Second), accepted, sum(failed), drawn)
		w.settle(2 * leaseOver)
		if t.Failed() {
			t.Logf("again: SOAK_SEED=%d SOAK_DURATION=%s", seed, duration)
		}
	})
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}

type soakFault struct {
	name string
	do   func(victim int, length time.Duration)
}

// faults are all that may happen to this world, in an order that never changes.
func (w *world) faults() []soakFault {
	process := func(victim int) (*process, func()) {
		if n := victim % (len(w.apis) + len(w.workers)); n >= len(w.apis) {
			n -= len(w.apis)
			return w.workers[n], func() {
				w.workers[n] = w.startWorker()
				w.workers[n].url()
			}
		}
		n := victim % (len(w.apis) + len(w.workers))
		return w.apis[n], func() { w.restartAPI(n) }
	}
	list := []soakFault{
		{"kill a process", func(victim int, length time.Duration) {
			p, again := process(victim)
			p.kill()
			w.pass(length)
			again()
		}},
		{"end a process", func(victim int, length time.Duration) {
			p, again := process(victim)
			p.stop()
			w.pass(length)
			again()
		}},
		{"end and kill a process", func(victim int, length time.Duration) {
			p, again := process(victim)
			p.signal(syscall.SIGTERM)
			w.pass(length / 20)
			p.kill()
			again()
		}},
		{"stop a process", func(victim int, length time.Duration) {
			p, _ := process(victim)
			p.signal(syscall.SIGSTOP)
			w.pass(length)
			p.signal(syscall.SIGCONT)
		}},
	}
	if w.redis == nil {
		return list
	}
	return append(list,
		soakFault{"restart Redis", func(_ int, length time.Duration) {
			w.redis.Kill()
			w.pass(length)
			w.redis.Restart()
		}},
		soakFault{"stop Redis", func(_ int, length time.Duration) {
			w.redis.Pause()
			w.pass(length)
			w.redis.Resume()
		}},
		soakFault{"flush Redis", func(int, time.Duration) {
			require.NoError(w.t, w.client().FlushAll(w.t.Context()).Err())
		}},
		soakFault{"restart Postgres", func(_ int, length time.Duration) {
			w.postgres.Stop()
			w.pass(length)
			w.postgres.Restart()
		}},
		soakFault{"kill Postgres", func(_ int, length time.Duration) {
			w.mu.Lock()
			w.books.crashes = append(w.books.crashes, time.Now())
			w.mu.Unlock()
			w.postgres.Kill()
			w.pass(length)
			w.postgres.Restart()
		}},
		soakFault{"stop Postgres", func(_ int, length time.Duration) {
			w.postgres.Pause()
			w.pass(length)
			w.postgres.Resume()
		}},
		soakFault{"terminate backends", func(victim int, _ time.Duration) {
			admin := w.sql(w.t.Context())
			_, err := admin.Exec(w.t.Context(), fmt.Sprintf(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid %% 3 = %d`, victim%3))
			require.NoError(w.t, err)
		}},
	)
}
