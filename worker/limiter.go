package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/batch"
)

// limiter keeps each webhook's rateLimitPerSecond over all workers: no window of one second, as
// the receiver's log shows it, holds more than that many requests.
//
// A granted start has a place in Redis, by Redis' clock, and one script decides about all that want
// one. A start is granted for a moment at which fewer than rate places are taken. Its place is free
// again a window after its request has come to the receiver at the latest: when that was is not
// known at first, so the place is kept until the worker tells, see rateStart. So of any rate+1
// requests the one that was granted last was granted for a moment at least a window after one of the
// others had come, however long they took on their way. Nothing is assumed of how quick this process,
// the network or the receiver is, but that a worker that says nothing of a start for restHold, being
// dead, does not make it any more.
//
// What is too fast gets a time to come back, each behind the one before at the webhook's pace. Its
// delivery carries that in the database: a claim that waited for its rate is served before those
// that come for the first time, and counts only when it starts, so nobody pays twice and a
// reserved time that nobody claims is free for others.
//
// Without Redis nothing that has a rate starts: another process may still have it, and tasks come
// through Redis anyway. A Redis that has lost its memory, a restart of the embedded one included,
// grants nothing for the first window, because it cannot know what started just before, nor for
// rateAhead before that, because what was granted ahead may start only now. By then it has been told
// again of what is still on its way.
type limiter struct {
	redis   redis.UniversalClient
	asks    *batch.Committer[rateAsk, rateAnswer]
	reports *batch.Committer[rateReport, struct{}]
	// lag is about how long it takes from asking to starting, in nanoseconds.
	lag atomic.Int64
	// process and flushes make the names of starts.
	process string
	flushes atomic.Int64

	mu      sync.Mutex
	backlog map[string]rateBacklog // by webhook
}

// rateBacklog is what is known here of those that wait for the rate of a webhook's revision: when the last
// newcomer comes back, with those that were parked since behind it.
type rateBacklog struct {
	revision int64
	rate     int
	last     time.Time
	asked    time.Time // the last time that one asked
}

const (
	// rateWindow is a second, and a little because clocks do not run at quite the same pace.
	rateWindow = time.Second + 10*time.Millisecond
	// The bounds of the start margin: it follows how long Redis and this process take.
	shortestMargin = 25 * time.Millisecond
	longestMargin  = 400 * time.Millisecond
	// rateAhead is how far ahead a start is granted; who gets one waits in place.
	rateAhead = 150 * time.Millisecond
	// unlimitedRetry is the wait where no limit can be had.
	unlimitedRetry = time.Second
	// groupSize is how many come back together; those for less than shortestGroup need not.
	groupSize     = 32
	shortestGroup = 100 * time.Millisecond

	rateKeys = "webhooks:{rate}:"
	rateBorn = rateKeys + "born"
)

// rateAsk asks for one start.
type rateAsk struct {
	webhookID string
	revision  int64
	rate      int           // per second
	returning bool          // it waited for its rate before
	created   time.Time     // of the delivery: the oldest comes first
	late      time.Duration // how long after its start a request has come as a rule
	gone      *atomic.Bool  // who asked does not wait any more
}

// rateAnswer is a start at wait after asked, to be used within margin, or else the time after which
// to come back.
type rateAnswer struct {
	rateAsk
	granted bool
	wait    time.Duration
	asked   time.Time
	margin  time.Duration

	name  string        // of the start's place
	clock time.Duration // Redis' at asked or a little later, since 1970
}

// KEYS[1] -> sorted set of starts, by when their places are free again, in µs, and of a mark
// KEYS[2] -> sorted set of those of them that have not come yet as far as is known, by until when they
// keep their places though nothing is heard of them
// KEYS[3] -> hash: back and front, up to when times to come back are given out, to those that come for
// the first time and to those that came back too soon; turn, the first of them that nobody has used;
// at, when it was written; kept, until when some start has a place for certain; rate, what it was made for
// KEYS[4] -> when Redis began to remember starts
// ARGV[1] -> starts per window, ARGV[2] -> window, ARGV[3] -> start margin, ARGV[4] -> how far ahead a
// start may be granted, ARGV[5] -> how long after its start one has come as a rule, ARGV[6] -> how long
// one of which nothing is heard keeps its place, all in µs; ARGV[7] -> how many ask that waited before,
// ARGV[8] -> how many others; ARGV[9] -> what their starts are called, each with its number behind it
//
// Returns the time and one number for each that asks, those that waited first: n >= 0: granted, to start
// in n µs; n < 0: come back in -n µs.
//
// slack is how late one may come to its time without losing it: times are given out that much apart,
// and a newcomer does not take the last of them before. A time that nobody used for forfeit is a
// newcomer's. Places are free a few seconds from now at most, so what is beyond is of another clock.
var rateScript = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local rate, window, margin, ahead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local late, hold = tonumber(ARGV[5]), tonumber(ARGV[6])
local olds, news = tonumber(ARGV[7]), tonumber(ARGV[8])
local slack, forfeit, beyond = 30000, 250000, 15000000
local function text(n) return string.format("%.0f", n) end
local born = tonumber(redis.call("GET", KEYS[4]) or "")
local plan = redis.call("HMGET", KEYS[3], "back", "front", "turn", "at", "kept", "rate")
local back, front = tonumber(plan[1] or "") or 0, tonumber(plan[2] or "") or 0
local turn, at = tonumber(plan[3] or "") or 0, tonumber(plan[4] or "") or 0
local kept = tonumber(plan[5] or "") or 0
if not born or born > now or at > now + beyond then
  born, back, front, turn, kept = now, 0, 0, 0, 0
  redis.call("SET", KEYS[4], text(now))
  redis.call("DEL", KEYS[1], KEYS[2], KEYS[3])
end
-- Where there is no mark though starts must have places still, Redis has evicted them.
local function mark()
  redis.call("ZADD", KEYS[1], "9000000000000000", "mark")
  redis.call("PEXPIRE", KEYS[1], 2 * beyond / 1000)
end
if not redis.call("ZSCORE", KEYS[1], "mark") then
  if kept > now then
    born = now
    redis.call("SET", KEYS[4], text(now))
  end
  mark()
end

redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", text(now))
for _, start in ipairs(redis.call("ZRANGE", KEYS[2], 0, -1)) do
  if (tonumber(redis.call("ZSCORE", KEYS[1], start) or "") or 0) <= now + ahead then
    redis.call("ZADD", KEYS[1], text(now + ahead + 1000), start)
  end
end
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", text(now))
local first = math.max(rate - olds - news, 1)
local places = redis.call("ZREVRANGE", KEYS[1], first, rate, "WITHSCORES") -- the mark comes before them
if #places > 0 and tonumber(places[2]) > now + beyond then
  born, places = now, {}
  redis.call("SET", KEYS[4], text(now))
  redis.call("DEL", KEYS[1], KEYS[2])
  mark()
end
-- When the next one may start: its predecessors of now have the latest places.
local function free(started)
  if started >= rate then return now + window end
  return tonumber(places[2 * (rate - started - first + 1)] or "") or 0
end
local step = (window + late + slack) / rate
-- The same line at another pace: it ends earlier or later. (Its webhook was changed.)
local pace = tonumber(plan[6] or "") or rate
if pace ~= rate then
  back = now + math.max(back - now, 0) * pace / rate
  front = now + math.max(front - now, 0) * pace / rate
  turn = now + math.max(turn - now, 0) * pace / rate
end

local answers = {now}
local started, planned = 0, false
for i = 1, olds + news do
  local returning = i <= olds
  local ended = back + slack <= now
  local mayStart = returning or ended or turn + forfeit <= now
  local open = now
  if mayStart then
    open = math.max(now, born + window + margin + ahead, free(started))
  end
  if mayStart and open <= now + ahead then
    redis.call("ZADD", KEYS[1], text(open + late + window), ARGV[9] .. i)
    redis.call("ZADD", KEYS[2], text(open + margin + hold), ARGV[9] .. i)
    started = started + 1
    kept = math.max(kept, open + window)
    turn = turn + step
    answers[i + 1] = math.ceil(open - now)
  else
    local come
    if returning then
      front = math.max(front + step, open, now + 1000)
      come = front
    else
      if ended then
        turn = open
      end
      back = math.max(back + step, open, now + 1000)
      come = back
    end
    planned = true
    answers[i + 1] = -math.ceil(come - now)
  end
end
if started > 0 then
  redis.call("PEXPIRE", KEYS[1], 2 * beyond / 1000)
  redis.call("PEXPIRE", KEYS[2], 2 * beyond / 1000)
end
if planned or started > 0 then
  redis.call("HSET", KEYS[3], "back", text(back), "front", text(front), "turn", text(turn), "at", text(now), "kept", text(kept),
    "rate", text(rate))
  redis.call("PEXPIRE", KEYS[3], math.ceil((math.max(back, front, now) - now) / 1000) + 60000)
end
return answers`)

var bornScript = redis.NewScript(`
local time = redis.call("TIME")
redis.call("SET", KEYS[1], string.format("%.0f", time[1] * 1000000 + time[2]), "NX")
return 0`)

func newLimiter(client redis.UniversalClient) *limiter {
	l := &limiter{redis: client, process: rand.Text(), backlog: map[string]rateBacklog{}}
	// One flusher: two of them would let the younger ask first.
	l.asks = batch.New(batch.Options[rateAsk, rateAnswer]{Flush: l.flush})
	l.reports = batch.New(batch.Options[rateReport, struct{}]{Flush: l.tell})
	return l
}

// start lets Redis' memory begin early, so that its first window is over when it is needed.
func (l *limiter) start(ctx context.Context) {
	l.asks.Start()
	l.reports.Start()
	ctx, cancel := context.WithTimeout(ctx, rateAhead)
	defer cancel()
	_ = bornScript.Run(ctx, l.redis, []string{rateBorn}).Err() // else the first ask does it
}

// stop is called when no start is under way any more.
func (l *limiter) stop(ctx context.Context) error {
	return errors.Join(l.asks.Stop(ctx), l.reports.Stop(ctx))
}

// ask asks for a start before ctx ends, when inTurn calls what it is given. Without an answer nothing may
// start. Those that ask first are answered first.
func (l *limiter) ask(ctx context.Context, ask rateAsk, inTurn func(func())) (rateAnswer, error) {
	ask.gone = new(atomic.Bool)
	answers := make(chan batch.Result[rateAnswer], 1)
	answer := func(a rateAnswer, err error) { answers <- batch.Result[rateAnswer]{Value: a, Err: err} }
	inTurn(func() {
		if err := l.asks.Submit(ask, answer); err != nil {
			answer(rateAnswer{}, err)
		}
	})
	select {
	case a := <-answers:
		return a.Value, a.Err
	case <-ctx.Done():
		ask.gone.Store(true)
		return rateAnswer{}, ctx.Err()
	}
}

// flush asks for many: one call a webhook, all in one round trip.
func (l *limiter) flush(ctx context.Context, asks []rateAsk) ([]batch.Result[rateAnswer], error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	groups := groupByWebhook(asks)
	calls := make([]scriptCall, len(groups))
	margin := min(max(2*time.Duration(l.lag.Load()), shortestMargin), longestMargin)
	names := fmt.Sprintf("%s:%d:", l.process, l.flushes.Add(1))
	for i, g := range groups {
		calls[i] = scriptCall{script: rateScript, keys: rateKeysOf(g.webhookID), args: []any{
			g.rate, rateWindow.Microseconds(), margin.Microseconds(), rateAhead.Microseconds(),
			max(margin, g.late).Microseconds(), restHold.Microseconds(), len(g.olds), len(g.news), names,
		}}
	}
	asked := time.Now()
	replies := runScripts(ctx, l.redis, calls)
	results := make([]batch.Result[rateAnswer], len(asks))
	defer l.learn(results)
	for i, g := range groups {
		waits, err := replies[i].Int64Slice()
		if err == nil && len(waits) != 1+len(g.olds)+len(g.news) {
			err = errAnswer
		}
		for n, at := range slices.Concat(g.olds, g.news) {
			name := names + strconv.Itoa(n+1)
			if err != nil || asks[at].gone.Load() {
				// What was granted all the same is of no use to anybody.
				l.report(rateReport{webhookID: g.webhookID, name: name})
			}
			if err != nil {
				results[at].Err = fmt.Errorf("ask for rate: %w", err)
				continue
			}
			wait := time.Duration(waits[n+1]) * time.Microsecond
			results[at].Value = rateAnswer{
				rateAsk: asks[at], granted: wait >= 0, wait: max(wait, -wait), asked: asked, margin: margin,
				name: name, clock: time.Duration(waits[0]) * time.Microsecond,
			}
		}
	}
	return results, nil
}

// askAgain is after how long a newcomer asks though others wait: they may have been cancelled, which only
// Redis tells, by giving their times to newcomers.
const askAgain = time.Second

// learn notes when newcomers were told to come back, and forgets those times when one need not.
func (l *limiter) learn(answers []batch.Result[rateAnswer]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range answers {
		a := r.Value
		switch {
		case r.Err != nil || a.returning:
		case a.granted:
			delete(l.backlog, a.webhookID)
		default:
			b := rateBacklog{revision: a.revision, rate: a.rate, last: a.asked.Add(a.wait), asked: a.asked}
			if known := l.backlog[a.webhookID]; known.revision == b.revision && known.last.After(b.last) {
				b.last = known.last
			}
			l.backlog[a.webhookID] = b
		}
	}
}

// park says for how long a delivery that is not claimed yet is to wait before it asks, behind those that have
// asked here; 0: it must ask at once, because it may not have to wait for long. The webhook is known as it
// stands in that revision.
func (l *limiter) park(webhookID string, revision int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.backlog[webhookID]
	if !known {
		return 0
	}
	now := time.Now()
	a := rateAnswer{rateAsk: rateAsk{rate: b.rate}, wait: b.last.Sub(now)}
	come := a.comeBack()
	switch {
	case b.revision != revision || a.wait <= 0:
		delete(l.backlog, webhookID)
		return 0
	case come == a.wait:
		return 0
	case now.Sub(b.asked) > askAgain:
		b.asked, come = now, 0
	default:
		b.last = b.last.Add(time.Second / time.Duration(b.rate))
	}
	l.backlog[webhookID] = b
	return come
}

// rateGroup is what one webhook's deliveries ask for: places in the batch.
type rateGroup struct {
	webhookID  string
	rate       int
	late       time.Duration
	olds, news []int
}

func groupByWebhook(asks []rateAsk) []*rateGroup {
	byID := make(map[string]*rateGroup, len(asks))
	var groups []*rateGroup
	for i, a := range asks {
		g := byID[a.webhookID]
		if g == nil {
			g = &rateGroup{webhookID: a.webhookID, rate: a.rate}
			byID[a.webhookID] = g
			groups = append(groups, g)
		}
		// Two revisions in one batch: the stricter one holds for both.
		g.rate, g.late = min(g.rate, a.rate), max(g.late, a.late)
		if a.returning {
			g.olds = append(g.olds, i)
		} else {
			g.news = append(g.news, i)
		}
	}
	for _, g := range groups {
		oldestFirst := func(a, b int) int { return asks[a].created.Compare(asks[b].created) }
		slices.SortStableFunc(g.olds, oldestFirst)
		slices.SortStableFunc(g.news, oldestFirst)
	}
	return groups
}

func rateKeysOf(webhookID string) []string {
	return []string{rateKeys + webhookID + ":starts", rateKeys + webhookID + ":open", rateKeys + webhookID + ":plan", rateBorn}
}

// comeBack is when one that was granted nothing asks again. For those that wait long and do not know their
// own time yet it is earlier than their turn, so that about groupSize deliveries come back together, in one
// task, and are told their own times then: a backlog of thousands is a few hundred tasks.
func (a rateAnswer) comeBack() time.Duration {
	group := groupSize * time.Second / time.Duration(a.rate)
	// Who was told its own time has a turn, and would take another one by asking before it.
	if a.returning || group < shortestGroup || a.wait < 2*group {
		return a.wait
	}
	return a.wait / group * group
}
