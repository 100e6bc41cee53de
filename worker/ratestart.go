package worker

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/batch"
)

const (
	// restHold is how long a start of which nothing is heard keeps its place: its worker is dead.
	restHold = 5 * time.Second
	// tellEvery is how often a start that has not come is made known: Redis may have forgotten it.
	tellEvery = 500 * time.Millisecond
	// A request that was written and is not answered counts as come after longUnanswered, so that a
	// receiver that hangs does not hold its webhook up for ever; after shortUnanswered where answers
	// take longUsual anyway and waiting for them would cost more of the rate than that.
	longUnanswered  = 2 * time.Second
	shortUnanswered = 250 * time.Millisecond
	longUsual       = time.Second
	// wayBucket is how long it takes to know how long answers take, and to forget it.
	wayBucket = 10 * time.Second
	// wayMargin is how much of the quickest answers' time may have been their requests' way.
	wayMargin = 100 * time.Millisecond
)

// rateReport tells Redis what became of a start's place.
type rateReport struct {
	webhookID, name string
	// free is when the place is free again, on Redis' clock; 0: at once; openStart: not known yet.
	free time.Duration
}

const openStart time.Duration = -1

// KEYS as those of rateScript. ARGV[1] -> how long a start of which nothing is heard keeps its place, in
// µs; then two for each start: its name, and when its place is free again, in µs, 0 for at once, -1 where
// that is not known yet.
var tellScript = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local function text(n) return string.format("%.0f", n) end
for i = 2, #ARGV, 2 do
  local free = tonumber(ARGV[i + 1])
  if free < 0 then
    redis.call("ZADD", KEYS[1], "NX", text(now), ARGV[i])
    redis.call("ZADD", KEYS[2], text(now + tonumber(ARGV[1])), ARGV[i])
  else
    redis.call("ZREM", KEYS[2], ARGV[i])
    redis.call("ZREM", KEYS[1], ARGV[i])
    if free > now then
      redis.call("ZADD", KEYS[1], text(free), ARGV[i])
    end
  end
end
redis.call("PEXPIRE", KEYS[1], 30000)
redis.call("PEXPIRE", KEYS[2], 30000)
return 0`)

// report does not wait. Refused, it is as if nothing were heard of the start.
func (l *limiter) report(r rateReport) {
	_ = l.reports.Submit(r, func(struct{}, error) {})
}

// tell is the reports' flush: one call a webhook, all in one round trip. What is lost of them keeps its
// place for restHold.
func (l *limiter) tell(ctx context.Context, reports []rateReport) ([]batch.Result[struct{}], error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	byID := map[string]int{}
	var calls []scriptCall
	for _, r := range reports {
		n, known := byID[r.webhookID]
		if !known {
			n = len(calls)
			byID[r.webhookID] = n
			calls = append(calls, scriptCall{script: tellScript, keys: rateKeysOf(r.webhookID), args: []any{restHold.Microseconds()}})
		}
		free := int64(openStart)
		if r.free != openStart {
			free = r.free.Microseconds()
		}
		calls[n].args = append(calls[n].args, r.name, free)
	}
	runScripts(ctx, l.redis, calls)
	return make([]batch.Result[struct{}], len(reports)), nil
}

// way is what is known of how long requests to a receiver take. It may be used by many attempts.
type way struct {
	mu sync.Mutex
	// The least time from written to answered in the bucket of wayBucket that began at since, and in the
	// one before; 0: no answer. All that is answered in one stall of a receiver is late, so it takes a whole
	// bucket to know anything.
	since             time.Time
	current, previous time.Duration
	// The usual time from a start to when its request has come, at most shortUnanswered: it is what times to
	// come back are planned by, and a plan that is too quick costs less than one that is too slow.
	late time.Duration
}

// usually is the usual time from a start to when its request has come, as far as that is known.
func (w *way) usually() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late
}

// answered learns from an answer, or, before there is one, from how long it takes already. It returns how
// much of that time the receiver worked on it at least, so that the request cannot have come later than
// that before it.
func (w *way) answered(took time.Duration) (work time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	least := w.least(time.Now())
	if w.current == 0 || took < w.current {
		w.current = max(took, 1)
	}
	return max(min(least, took)-wayMargin, 0)
}

// patience is how long after it was written a request without an answer counts as come.
func (w *way) patience() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.least(time.Now()) >= longUsual {
		return shortUnanswered
	}
	return longUnanswered
}

// least is the least time that answers take; 0: not known. The lock is held.
func (w *way) least(now time.Time) time.Duration {
	if age := now.Sub(w.since); age >= wayBucket {
		w.previous = w.current
		if age >= 2*wayBucket {
			w.previous = 0
		}
		w.since, w.current = now, 0
	}
	if w.previous == 0 || w.current == 0 {
		return w.previous
	}
	return min(w.previous, w.current)
}

func (w *way) came(late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late += (min(late, shortUnanswered) - w.late) / 8
}

// rateStart is one start under way. Its place is kept until its request has come to the receiver for
// certain: until it is answered, or was written patience ago. A nil one is of a webhook without a rate.
type rateStart struct {
	rateAnswer

	limiter *limiter
	way     *way
	began   time.Time

	mu      sync.Mutex
	timer   *time.Timer
	wrote   time.Time // zero: not yet
	known   time.Time // of the first byte of its answer; zero: none came
	settled bool
}

// await waits until a granted start may happen; false where it is given back.
func (l *limiter) await(ctx context.Context, a rateAnswer) bool {
	// By our clock the script ran between asked and now; the start must not be early in either case.
	timer := time.NewTimer(a.wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		l.giveBack(a)
		return false
	}
}

// giveBack gives the place of a start that is not made to another. It does nothing where nothing was granted.
func (l *limiter) giveBack(a rateAnswer) {
	if a.granted {
		l.report(rateReport{webhookID: a.webhookID, name: a.name})
	}
}

// last is when the latest moment of a granted start is over.
func (a rateAnswer) last() time.Time { return a.asked.Add(a.wait + a.margin) }

// begin is for a start that was awaited; nil where it may not happen any more and was given back. It must be
// the last thing before the attempt. What it returns must be ended.
func (l *limiter) begin(a rateAnswer, w *way) *rateStart {
	s := &rateStart{rateAnswer: a, limiter: l, way: w}
	s.began = time.Now()
	lag := s.began.Sub(a.asked) - a.wait
	known := time.Duration(l.lag.Load())
	if lag < known {
		lag = known - (known-lag)/64 // slow to forget
	}
	l.lag.Store(int64(lag))
	if s.began.After(a.last()) {
		l.giveBack(a)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(tellEvery, s.remind)
	return s
}

// written is called when the whole request has been written.
func (s *rateStart) written() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = time.Now()
	s.timer.Reset(min(s.way.patience(), tellEvery))
}

// answered is called when the first byte of the answer has come.
func (s *rateStart) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = time.Now()
	wrote := s.wrote
	if wrote.IsZero() {
		wrote = s.began // a receiver may answer before it has got everything
	}
	s.settle(s.known.Add(-s.way.answered(s.known.Sub(wrote))))
}

// remind keeps the place, or gives it up when the request counts as come.
func (s *rateStart) remind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled {
		return
	}
	next := tellEvery
	if !s.wrote.IsZero() {
		patience := s.way.patience()
		left := patience - time.Since(s.wrote)
		if left <= 0 {
			s.settle(s.wrote.Add(patience))
			return
		}
		next = min(next, left)
	}
	s.report(openStart)
	s.timer.Reset(next)
}

// unused gives the place back: nothing was sent.
func (s *rateStart) unused() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.settled {
		s.settled = true
		s.limiter.giveBack(s.rateAnswer)
	}
}

// end is called when the attempt is over, however that came.
func (s *rateStart) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	if s.known.IsZero() && !s.wrote.IsZero() {
		s.way.answered(time.Since(s.wrote))
	}
	// What was written, or began to be, may come though nobody waits for its answer any more.
	came := time.Now()
	if s.wrote.IsZero() {
		came = came.Add(shortUnanswered)
	} else if late := s.wrote.Add(s.way.patience()); late.After(came) {
		came = late
	}
	s.settle(came)
}

// settle says by when the request had come at the latest. The lock is held.
func (s *rateStart) settle(came time.Time) {
	if s.settled {
		return
	}
	s.settled = true
	late := came.Sub(s.asked)
	s.way.came(late - s.wait)
	s.report(s.clock + late + rateWindow)
}

func (s *rateStart) report(free time.Duration) {
	s.limiter.report(rateReport{webhookID: s.webhookID, name: s.name, free: free})
}
