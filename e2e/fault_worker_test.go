package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// leaseOver bounds how long a run takes to settle in which a worker died: its lease of 30 s and the
// reconciler's interval, and the same again where the next one died too. What is promised is a
// minute for each.
const leaseOver = 90 * time.Second

// patient is a schedule that kills do not exhaust.
var patient = slices.Repeat([]time.Duration{200 * time.Millisecond}, 30)

// The load with no fault: what the books say of a quiet run is the measure of all others.
func TestFault00_NoFault(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack})
		l := w.emit(20)
		w.accept(either(60, 3000))
		l.end(t)
		w.settle(60 * time.Second)
		_, failed, _ := w.counts(time.Time{})
		require.Empty(t, failed)
		require.Zero(t, w.twice())
		require.Zero(t, w.abandoned())
	})
}

// Everything dies at once, and comes back in any order (E1 does this oftener, and looks at less).
func TestFault05_EverythingKilledAtOnce(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack})
		l := w.emit(20)
		for range either(2, 50) {
			w.accept(10)
			for _, p := range append(slices.Clone(w.workers), w.apis...) {
				p.signal(syscall.SIGKILL)
			}
			for _, p := range append(slices.Clone(w.workers), w.apis...) {
				<-p.done
			}
			for _, n := range rand.Perm(len(w.apis) + len(w.workers)) {
				if n < len(w.apis) {
					w.restartAPI(n)
				} else {
					w.workers[n-len(w.apis)] = w.startWorker()
				}
			}
		}
		l.end(t)
		w.settle(leaseOver)
	})
}

func TestFault07_SIGTERM(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(p *process) (graceful bool){
		"once": func(p *process) bool {
			p.stop()
			return true
		},
		"twice": func(p *process) bool {
			p.signal(syscall.SIGTERM)
			p.signal(syscall.SIGTERM)
			p.wait()
			return false
		},
		"and SIGKILL": func(p *process) bool {
			p.signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(50 * time.Millisecond):
			}
			p.kill()
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
				w := newWorld(t, plan{stack: stack})
				l := w.emit(20)
				graceful := true
				for n := range either(2, 100) {
					w.accept(10)
					senders := w.senders()
					graceful = end(senders[n%len(senders)])
					w.restartSenders()
				}
				l.end(t)
				w.settle(leaseOver)
				if graceful {
					require.Zero(t, w.twice(), "requests after a 2xx")
					require.Zero(t, w.abandoned())
				}
			})
		})
	}
}

// Workers stand still in the middle of attempts and of recording them, for longer than their
// leases, while another one does it all again; then they go on. In the short form their leases are
// ended by hand, once the time of their attempts is over: before that, who was stopped while it dialled
// may still send what it signed, which a lease allows for.
func TestFault08_WorkerStoppedAndContinued(t *testing.T) {
	t.Parallel()
	const timeout = 15 * time.Second // as it is by itself: a busy receiver of tests needs seconds, too
	w := newWorld(t, plan{stack: apptest.Production, env: map[string]string{"ATTEMPT_TIMEOUT": timeout.String()}})
	gate := w.recordGate()
	l := w.emit(10)
	for n := range either(3, 6) {
		w.accept(20)
		waiting, lost := gate.shut(), gate.count(`attempts WHERE outcome = 'ABANDONED'`)
		w.accept(5) // what is attempted meanwhile is recorded too late
		for _, p := range w.workers {
			p.signal(syscall.SIGSTOP)
		}
		if n%3 == 1 {
			gate.undo(waiting)
		}
		if n%3 < 2 {
			gate.open() // else what was being recorded waits through it all
		}
		if full() {
			w.pass(90 * time.Second)
		} else {
			w.pass(timeout + time.Second) // a claimed attempt may wait for its start, too
			gate.run(`UPDATE deliveries SET claimed_until = clock_timestamp() WHERE id IN
				(SELECT id FROM deliveries WHERE claim_token IS NOT NULL FOR UPDATE SKIP LOCKED)`)
			gate.run("DELETE FROM leases") // one of them may be the reconciler
		}
		if n%3 == 2 {
			gate.open()
		}
		before := len(w.logged("healthy"))
		other := w.startWorker()
		other.url()
		apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
			return len(w.logged("healthy")) > before+20, "the other one does not go on"
		})
		apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
			left := gate.text(`SELECT string_agg(concat_ws(' ', id, next_attempt_at - clock_timestamp(), status_reason, claimed_until), ', ')
				FROM deliveries WHERE last_outcome = 'ABANDONED' AND status = 'RETRYING'
				AND webhook_id NOT IN (SELECT id FROM webhooks WHERE rate_limit_per_second IS NOT NULL)`)
			abandoned := gate.count(`attempts WHERE outcome = 'ABANDONED'`) - lost
			return abandoned > 0 && left == "", fmt.Sprintf("of what was theirs, %d attempts are abandoned, and not made again: %s", abandoned, left)
		})
		for _, p := range w.workers {
			p.signal(syscall.SIGCONT)
		}
		w.accept(20)
		other.stop()
	}
	l.end(t)
	w.settle(leaseOver)
	w.onlyFailingFailed()
}

func TestFault09_APIStopped(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, callLimit: time.Second})
		w.books.patience = 0 // a frozen process answers nobody
		l := w.emit(20)
		w.accept(20)
		w.apis[0].signal(syscall.SIGSTOP)
		w.pass(either(3*time.Second, 30*time.Second))
		w.apis[0].signal(syscall.SIGCONT)
		w.accept(20)
		l.end(t)
		w.settle(60 * time.Second)
	})
}

func TestFault10_OutOfFileDescriptors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, few: true, workers: 1})
	// Its slowness keeps a descriptor per attempt, more than there are.
	w.subscribe(subscribed{name: "crowded", schedule: patient}, func(int) receivertest.Answer {
		return receivertest.Delay(2*time.Second, receivertest.Status(http.StatusOK))
	}, nil)
	w.workers[0].stop()
	env := map[string]string{"LISTEN_ADDR": "127.0.0.1:0"}
	for name, value := range w.env {
		if name != "LISTEN_ADDR" {
			env[name] = value
		}
	}
	w.workers[0] = startProgram(t, "/bin/sh", env, "-c", fmt.Sprintf("ulimit -n 64 && exec %s worker", binary))
	w.workers[0].url()
	l := w.emit(40)
	w.accept(either(200, 2000))
	l.end(t)
	w.settle(120 * time.Second)
	for _, d := range w.books.deliveries {
		if d.status == "FAILED" {
			for _, s := range w.books.webhooks {
				if s.id == d.webhook {
					require.Equal(t, "failing", s.name, "%+v", d)
				}
			}
		}
	}
	w.workers[0].stop()
}

// Every process is replaced by the same version, one after the other, behind clients that try again.
func TestFault44_RollingRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, apis: 2})
	l := w.emit(20)
	for range either(1, 20) {
		for n := range w.apis {
			w.accept(5)
			w.apis[n].stop()
			w.restartAPI(n)
		}
		for n := range w.workers {
			w.accept(5)
			w.workers[n].stop()
			w.workers[n] = w.startWorker()
			w.workers[n].url()
		}
	}
	l.end(t)
	w.settle(leaseOver)
	require.Zero(t, w.twice(), "requests after a 2xx")
	require.Zero(t, w.abandoned())
}
