package worker

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
)

var testBreaker = BreakerOptions{Window: time.Minute, Cooldown: 30 * time.Second, MinAttempts: 20, Threshold: 0.5}

// fleet is several workers' circuits on one Redis, in a bubble.
type fleet struct {
	t       testing.TB
	workers []*circuits
	read    *Circuits
}

func inFleet(t *testing.T, n int, opt BreakerOptions, test func(t *testing.T, f *fleet, server *miniredis.Miniredis)) {
	t.Helper()
	server := startRedis(t)
	synctest.Test(t, func(t *testing.T) {
		f, stop := newFleet(t, server, n, opt)
		defer stop()
		test(t, f, server)
	})
}

func newFleet(t *testing.T, server *miniredis.Miniredis, n int, opt BreakerOptions) (f *fleet, stop func()) {
	f = &fleet{t: t}
	end := make(chan struct{})
	client := bubbleClient(server)
	f.read = NewCircuits(client)
	for range n {
		c := newCircuits(opt, client, slog.New(slog.DiscardHandler))
		c.asks.Start()
		c.reports.Start()
		go c.watch(end)
		f.workers = append(f.workers, c)
	}
	return f, func() {
		close(end)
		synctest.Wait()
		for _, c := range f.workers {
			require.NoError(t, c.asks.Stop(t.Context()))
			require.NoError(t, c.reports.Stop(t.Context()))
		}
		_ = client.Close()
	}
}

func (f *fleet) pass(worker int) (*pass, time.Duration) {
	return f.workers[worker].pass(f.t.Context(), "w", false, 15*time.Second, time.Now())
}

// attempts makes n attempts, all of which must pass.
func (f *fleet) attempts(worker, n int, told verdict) {
	f.t.Helper()
	for range n {
		p, _ := f.pass(worker)
		require.NotNil(f.t, p)
		f.workers[worker].settle(p, told)
	}
	synctest.Wait()
}

// told lets every worker learn what the others know.
func (f *fleet) told() {
	time.Sleep(2*pollEvery + time.Millisecond)
	synctest.Wait()
}

func (f *fleet) state() models.CircuitState {
	f.t.Helper()
	all, err := f.read.Circuits(f.t.Context(), []string{"w"})
	require.NoError(f.t, err)
	return all["w"].State
}

func TestBreaker_Opens(t *testing.T) {
	t.Parallel()
	type step struct {
		worker, well, broken, nothing int
		after                         time.Duration
	}
	for name, test := range map[string]struct {
		steps []step
		want  models.CircuitState
	}{
		"nineteen failures are too few":         {[]step{{broken: 19}}, models.CircuitClosed},
		"twenty failures":                       {[]step{{broken: 20}}, models.CircuitOpen},
		"half of twenty":                        {[]step{{well: 10}, {broken: 10}}, models.CircuitOpen},
		"less than half":                        {[]step{{well: 11}, {broken: 10}}, models.CircuitClosed},
		"ten by each of two workers":            {[]step{{broken: 10}, {worker: 1, broken: 10}}, models.CircuitOpen},
		"another worker's successes count":      {[]step{{worker: 1, well: 21}, {broken: 1}, {broken: 19}}, models.CircuitClosed},
		"those of two minutes ago do not count": {[]step{{broken: 19, after: 2 * time.Minute}, {broken: 10}}, models.CircuitClosed},
		"successes of two minutes ago neither":  {[]step{{well: 100, after: 2 * time.Minute}, {broken: 20}}, models.CircuitOpen},
		"within the window they do":             {[]step{{broken: 15, after: 50 * time.Second}, {broken: 5}}, models.CircuitOpen},
		"what tells nothing does not":           {[]step{{broken: 19}, {nothing: 50}}, models.CircuitClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFleet(t, 2, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
				for _, s := range test.steps {
					f.attempts(s.worker, s.well, tellsWell)
					f.attempts(s.worker, s.broken, tellsBroken)
					f.attempts(s.worker, s.nothing, tellsNothing)
					time.Sleep(s.after)
					f.told()
				}
				assert.Equal(t, test.want, f.state())
			})
		})
	}
}

func TestBreaker_OneProbeOverAllWorkers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		told verdict
		want models.CircuitState
	}{
		"that succeeds closes it":             {tellsWell, models.CircuitClosed},
		"that fails opens it again":           {tellsBroken, models.CircuitOpen},
		"that was not made is another's turn": {tellsNothing, models.CircuitHalfOpen},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFleet(t, 4, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
				f.attempts(0, 20, tellsBroken)
				f.told()
				for worker := range f.workers {
					p, wait := f.pass(worker)
					require.Nil(t, p, "no worker attempts")
					assert.GreaterOrEqual(t, wait, 28*time.Second)
				}
				time.Sleep(30 * time.Second)
				assert.Equal(t, models.CircuitHalfOpen, f.state())
				var probes []*pass
				var prober int
				for worker := range f.workers {
					for range 3 {
						if p, wait := f.pass(worker); p != nil {
							probes = append(probes, p)
							prober = worker
						} else {
							assert.Positive(t, wait)
						}
					}
				}
				require.Len(t, probes, 1)
				f.workers[prober].settle(probes[0], test.told)
				f.told()
				assert.Equal(t, test.want, f.state())
				p, _ := f.pass(3)
				assert.Equal(t, test.told != tellsBroken, p != nil)
				if p != nil && test.told == tellsWell {
					assert.Empty(t, p.token)
				}
			})
		})
	}
}

func TestBreaker_AProbeThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	inFleet(t, 2, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
		f.attempts(0, 20, tellsBroken)
		f.told()
		time.Sleep(30 * time.Second)
		p, _ := f.pass(0)
		require.NotNil(t, p) // and its worker dies
		time.Sleep(19 * time.Second)
		other, _ := f.pass(1)
		require.Nil(t, other)
		time.Sleep(2 * time.Second)
		other, _ = f.pass(1)
		require.NotNil(t, other)
		// The first one was only slow: its failure is nobody's business any more.
		f.workers[0].settle(p, tellsBroken)
		f.told()
		assert.Equal(t, models.CircuitHalfOpen, f.state())
	})
}

// Attempts that began before the circuit opened may hang until after it closed.
func TestBreaker_OldAttemptsTellNothing(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
		var hanging []*pass
		for range 100 {
			p, _ := f.pass(0)
			hanging = append(hanging, p)
		}
		f.attempts(0, 20, tellsBroken)
		f.told()
		time.Sleep(30 * time.Second)
		f.attempts(0, 1, tellsWell)
		require.Equal(t, models.CircuitClosed, f.state())
		for _, p := range hanging {
			f.workers[0].settle(p, tellsBroken)
		}
		f.told()
		assert.Equal(t, models.CircuitClosed, f.state())
	})
}

func TestBreaker_APersonPasses(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
		f.attempts(0, 20, tellsBroken)
		f.told()
		p, _ := f.workers[0].pass(t.Context(), "w", true, time.Second, time.Now())
		require.NotNil(t, p)
		f.workers[0].settle(p, tellsBroken)
		f.told()
		require.Equal(t, models.CircuitOpen, f.state())
		p, _ = f.workers[0].pass(t.Context(), "w", true, time.Second, time.Now())
		f.workers[0].settle(p, tellsWell)
		f.told()
		assert.Equal(t, models.CircuitClosed, f.state())
	})
}

// A long backlog comes back one after the other, the first of it at the end of the cooldown.
func TestBreaker_TheHeldComeBackApart(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, testBreaker, func(t *testing.T, f *fleet, _ *miniredis.Miniredis) {
		f.attempts(0, 20, tellsBroken)
		perSecond := map[time.Duration]int{}
		var last time.Duration
		for n := range 3000 {
			p, wait := f.pass(0)
			require.Nil(t, p)
			perSecond[wait.Truncate(time.Second)]++
			assert.Greater(t, wait, last)
			last = wait
			if n == 0 {
				assert.LessOrEqual(t, wait, testBreaker.Cooldown)
			}
		}
		assert.Equal(t, 1, perSecond[testBreaker.Cooldown-time.Second]+perSecond[testBreaker.Cooldown])
		for second, n := range perSecond {
			assert.LessOrEqual(t, n, 11, "second %s", second)
		}
	})
}

// Every worker hears once that a circuit has closed, whoever closed it, and of no other change.
func TestBreaker_TellsWhenItCloses(t *testing.T) {
	t.Parallel()
	closed := func(f *fleet) (all []int) {
		for _, w := range f.workers {
			n := 0
			for len(w.closed) > 0 {
				require.Equal(t, "w", <-w.closed)
				n++
			}
			all = append(all, n)
		}
		return all
	}
	inFleet(t, 2, testBreaker, func(t *testing.T, f *fleet, server *miniredis.Miniredis) {
		f.attempts(0, 30, tellsWell)
		f.attempts(1, 30, tellsBroken)
		f.told()
		time.Sleep(testBreaker.Cooldown)
		f.attempts(0, 1, tellsBroken)
		f.told()
		assert.Equal(t, []int{0, 0}, closed(f), "it was opened twice")
		time.Sleep(testBreaker.Cooldown)
		f.attempts(0, 1, tellsWell)
		f.told()
		assert.Equal(t, []int{1, 1}, closed(f))

		f.attempts(0, 30, tellsBroken)
		f.told()
		server.FlushAll()
		f.told()
		assert.Equal(t, []int{1, 1}, closed(f), "nobody knows of it any more")

		server.SetError("LOADING Redis is loading the dataset in memory")
		f.attempts(0, 20, tellsBroken)
		time.Sleep(testBreaker.Cooldown)
		f.attempts(0, 1, tellsWell)
		assert.Equal(t, []int{1, 0}, closed(f), "each for itself")
	})
}

func TestBreaker_WithoutRedisEachProcessBreaksItsOwn(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, testBreaker, func(t *testing.T, f *fleet, server *miniredis.Miniredis) {
		server.SetError("LOADING Redis is loading the dataset in memory")
		f.attempts(0, 20, tellsBroken)
		p, wait := f.pass(0)
		require.Nil(t, p)
		assert.LessOrEqual(t, wait, testBreaker.Cooldown)
		time.Sleep(testBreaker.Cooldown)
		probe, _ := f.pass(0)
		require.NotNil(t, probe)
		second, _ := f.pass(0)
		require.Nil(t, second, "one probe")
		f.workers[0].settle(probe, tellsWell)
		f.attempts(0, 5, tellsWell)

		// With Redis back they share again.
		server.SetError("")
		f.told()
		f.attempts(0, 20, tellsBroken)
		assert.Equal(t, models.CircuitOpen, f.state())
	})
}

// circuitModel is the breaker of one webhook as a person would write it down.
type circuitModel struct {
	opt    BreakerOptions
	counts map[int64]*tally
	open   bool
	until  time.Time // open: of the cooldown; half open: of the probe
	half   bool
}

func (m *circuitModel) bucket() int64 {
	return time.Now().UnixMicro() / (m.opt.Window / circuitBuckets).Microseconds()
}

func (m *circuitModel) count(told verdict) {
	now := m.bucket()
	if m.counts[now] == nil {
		m.counts[now] = &tally{}
	}
	m.counts[now].attempts++
	if told != tellsBroken {
		return
	}
	m.counts[now].failures++
	var all tally
	for b, t := range m.counts {
		if b > now-circuitBuckets {
			all.attempts += t.attempts
			all.failures += t.failures
		}
	}
	if all.attempts >= m.opt.MinAttempts && float64(all.failures) >= m.opt.Threshold*float64(all.attempts) {
		m.reopen()
	}
}

func (m *circuitModel) settle(probe bool, told verdict) {
	switch {
	case probe && told == tellsNothing:
		m.until = time.Now()
	case probe && told == tellsWell:
		m.open, m.half, m.counts = false, false, map[int64]*tally{}
	case probe:
		m.reopen()
	case told != tellsNothing:
		m.count(told)
	}
}

func (m *circuitModel) reopen() {
	m.open, m.half, m.until, m.counts = true, false, time.Now().Add(m.opt.Cooldown), map[int64]*tally{}
}

func (m *circuitModel) state() models.CircuitState {
	switch {
	case !m.open:
		return models.CircuitClosed
	case m.half || !time.Now().Before(m.until):
		return models.CircuitHalfOpen
	default:
		return models.CircuitOpen
	}
}

// circuitStep is one attempt, and the time after it.
type circuitStep struct {
	worker int
	told   verdict
	dies   bool
	after  time.Duration
}

// Random attempts of three workers, and time, against the model.
func TestBreaker_Model(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) circuitStep {
		return circuitStep{
			worker: rapid.IntRange(0, 2).Draw(rt, "worker"),
			told:   rapid.SampledFrom([]verdict{tellsWell, tellsBroken, tellsBroken, tellsNothing}).Draw(rt, "told"),
			dies:   rapid.IntRange(0, 9).Draw(rt, "dies") == 9,
			after:  rapid.SampledFrom([]time.Duration{1200 * time.Millisecond, 3 * time.Second, 8 * time.Second}).Draw(rt, "after"),
		}
	}), 1, 60)
	rapid.Check(t, func(rt *rapid.T) {
		script := steps.Draw(rt, "steps")
		server.FlushAll()
		wrong := ""
		synctest.Test(t, func(t *testing.T) { wrong = againstModel(t, server, script) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// againstModel says what was other than in the model.
func againstModel(t *testing.T, server *miniredis.Miniredis, script []circuitStep) string {
	t.Helper()
	opt := BreakerOptions{Window: 20 * time.Second, Cooldown: 7 * time.Second, MinAttempts: 4, Threshold: 0.5}
	f, stop := newFleet(t, server, 3, opt)
	defer stop()
	m := &circuitModel{opt: opt, counts: map[int64]*tally{}}
	for n, s := range script {
		p, _ := f.workers[s.worker].pass(t.Context(), "w", false, time.Second, time.Now())
		if free := !m.open || !time.Now().Before(m.until); (p != nil) != free {
			return fmt.Sprintf("step %d: passed %v, in the model %v", n, p != nil, free)
		}
		if p != nil {
			probe := m.open
			if (p.token != "") != probe {
				return fmt.Sprintf("step %d: probe %v, in the model %v", n, p.token != "", probe)
			}
			if probe {
				m.half, m.until = true, time.Now().Add(time.Second+probeGrace)
			}
			if !s.dies {
				f.workers[s.worker].settle(p, s.told)
				m.settle(probe, s.told)
			}
		}
		time.Sleep(s.after)
		synctest.Wait()
		if got, want := f.state(), m.state(); got != want {
			return fmt.Sprintf("step %d: state %s, in the model %s", n, got, want)
		}
	}
	return ""
}
