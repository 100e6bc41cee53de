package worker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/batch"
)

// limiter keeps each webhook's rateLimitPerSecond over all workers: no window of one second, as
// the receiver's log shows it, holds more than that many requests.
//
// The starts of the last second stand in Redis, by Redis' clock, and one script decides about all
// that want to start. A start is granted only where the one that is rate places before it is more
// than a window old. What lies between a grant and its arrival at the receiver could bring two of
// them closer together than they were granted, so the window has margins: a grant must be used
// within its start margin or is given up, and networkMargin is for the way to the receiver.
//
// What is too fast gets a time to come back, each behind the one before at the webhook's pace. Its
// delivery carries that in the database: a claim that waited for its rate is served before those
// that come for the first time, and counts only when it starts, so nobody pays twice and a
// reserved time that nobody claims is free for others.
//
// Without Redis nothing that has a rate starts: another process may still have it, and tasks come
// through Redis anyway. A Redis that has lost its memory, a restart of the embedded one included,
// grants nothing for the first window, because it cannot know what started just before, nor for
// rateAhead before that, because what was granted ahead may start only now.
type limiter struct {
	redis redis.UniversalClient
	asks  *batch.Committer[rateAsk, rateAnswer]
	// lag is about how long it takes from asking to starting, in nanoseconds.
	lag atomic.Int64
}

const (
	rateWindow = time.Second
	// networkMargin is how much longer one request may take to its receiver than another. What it
	// takes beyond is reported, see reportSlow.
	networkMargin = 100 * time.Millisecond
	// The bounds of the start margin: it follows how long Redis and this process take.
	shortestMargin = 25 * time.Millisecond
	longestMargin  = 400 * time.Millisecond
	// rateAhead is how far ahead a start is granted; who gets one waits in place.
	rateAhead = 150 * time.Millisecond
	// unlimitedRetry is the wait where no limit can be had.
	unlimitedRetry = time.Second
	// slowFor is how long a slow connection widens the window.
	slowFor = 10 * time.Second
	// longestSlow bounds by how much.
	longestSlow = 5 * time.Second
	// groupSize is how many come back together; those for less than shortestGroup need not.
	groupSize     = 32
	shortestGroup = 100 * time.Millisecond

	rateKeys = "webhooks:{rate}:"
	rateBorn = rateKeys + "born"
)

// rateAsk asks for one start.
type rateAsk struct {
	webhookID string
	rate      int       // per second
	returning bool      // it waited for its rate before
	created   time.Time // of the delivery: the oldest comes first
}

// rateAnswer is a start at wait after asked, to be used within margin, or else the time after which
// to come back.
type rateAnswer struct {
	granted bool
	wait    time.Duration
	asked   time.Time
	margin  time.Duration
}

// KEYS[1] -> list of the latest moments at which starts may happen, in µs, ascending
// KEYS[2] -> hash: back and front, up to when times to come back are given out, to those that come for
// the first time and to those that came back too soon; turn, the first of them that nobody has used;
// at, when it was written
// KEYS[3] -> when Redis began to remember starts
// KEYS[4] -> by how much slow connections widen the window, in µs
// ARGV[1] -> starts per window, ARGV[2] -> window, ARGV[3] -> start margin, ARGV[4] -> how far ahead a
// start may be granted, all in µs; ARGV[5] -> how many ask that waited before, ARGV[6] -> how many others
//
// Returns one number for each that asks, those that waited first: n >= 0: granted, to start in n µs;
// n < 0: come back in -n µs.
//
// slack is how late one may come to its time without losing it: times are given out that much apart,
// and a newcomer does not take the last of them before. A time that nobody used for forfeit is a
// newcomer's.
var rateScript = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local rate, window, margin, ahead = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local olds, news = tonumber(ARGV[5]), tonumber(ARGV[6])
window = window + (tonumber(redis.call("GET", KEYS[4]) or "") or 0)
local slack, forfeit = 30000, 250000
local function text(n) return string.format("%.0f", n) end

local born = tonumber(redis.call("GET", KEYS[3]) or "")
local last = tonumber(redis.call("LINDEX", KEYS[1], -1) or "") or 0
local plan = redis.call("HMGET", KEYS[2], "back", "front", "turn", "at")
local back, front = tonumber(plan[1] or "") or 0, tonumber(plan[2] or "") or 0
local turn, at = tonumber(plan[3] or "") or 0, tonumber(plan[4] or "") or 0
if not born or born > now or last > now + 5000000 or at > now + 5000000 then
  born, last, back, front, turn = now, 0, 0, 0, 0
  redis.call("SET", KEYS[3], text(now))
  redis.call("DEL", KEYS[1], KEYS[2])
end

local length = redis.call("LLEN", KEYS[1])
while length > 0 and tonumber(redis.call("LINDEX", KEYS[1], 0)) + window <= now do
  redis.call("LPOP", KEYS[1])
  length = length - 1
end
local step = (window + margin + slack) / rate

local answers = {}
local started, planned = false, back > now
for i = 1, olds + news do
  local returning = i <= olds
  local ended = back + slack <= now
  local mayStart = returning or ended or turn + forfeit <= now
  local open = now
  if mayStart then
    open = math.max(now, born + window + ahead)
    if length >= rate then
      open = math.max(open, tonumber(redis.call("LINDEX", KEYS[1], length - rate)) + window)
    end
  end
  if mayStart and open <= now + ahead then
    last = math.max(last, open + margin)
    redis.call("RPUSH", KEYS[1], text(last))
    length, started = length + 1, true
    turn = turn + step
    answers[i] = math.ceil(open - now)
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
    answers[i] = -math.ceil(come - now)
  end
end
if started then
  redis.call("PEXPIRE", KEYS[1], math.ceil((window + ahead) / 1000) + 5000)
end
if planned then
  redis.call("HSET", KEYS[2], "back", text(back), "front", text(front), "turn", text(turn), "at", text(now))
  redis.call("PEXPIRE", KEYS[2], math.ceil((math.max(back, front, now) - now) / 1000) + 60000)
end
return answers`)

// KEYS[1] -> by how much slow connections widen the window, ARGV[1] -> what one took, in µs,
// ARGV[2] -> how long that counts, in ms. The slowest of those that count stands.
var slowScript = redis.NewScript(`
local known = tonumber(redis.call("GET", KEYS[1]) or "") or 0
if known <= tonumber(ARGV[1]) then
  redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
end
return 0`)

var bornScript = redis.NewScript(`
local time = redis.call("TIME")
redis.call("SET", KEYS[1], string.format("%.0f", time[1] * 1000000 + time[2]), "NX")
return 0`)

func newLimiter(client redis.UniversalClient) *limiter {
	l := &limiter{redis: client}
	l.asks = batch.New(batch.Options[rateAsk, rateAnswer]{Flush: l.flush, Flushers: 2})
	return l
}

// start lets Redis' memory begin early, so that its first window is over when it is needed.
func (l *limiter) start(ctx context.Context) {
	l.asks.Start()
	ctx, cancel := context.WithTimeout(ctx, rateAhead)
	defer cancel()
	_ = bornScript.Run(ctx, l.redis, []string{rateBorn}).Err() // else the first ask does it
}

// ask asks for a start before ctx ends. Without an answer nothing may start.
func (l *limiter) ask(ctx context.Context, ask rateAsk) (rateAnswer, error) {
	return l.asks.Do(ctx, ask)
}

// flush asks for many: one call a webhook, all in one round trip.
func (l *limiter) flush(ctx context.Context, asks []rateAsk) ([]batch.Result[rateAnswer], error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	groups := groupByWebhook(asks)
	calls := make([]scriptCall, len(groups))
	margin := min(max(2*time.Duration(l.lag.Load()), shortestMargin), longestMargin)
	for i, g := range groups {
		calls[i] = scriptCall{script: rateScript, keys: rateKeysOf(g.webhookID), args: []any{
			// Where this process is late to start, the receiver is late to see it.
			g.rate, (rateWindow + networkMargin + margin).Microseconds(), margin.Microseconds(), rateAhead.Microseconds(), len(g.olds), len(g.news),
		}}
	}
	asked := time.Now()
	replies := runScripts(ctx, l.redis, calls)
	results := make([]batch.Result[rateAnswer], len(asks))
	for i, g := range groups {
		waits, err := replies[i].Int64Slice()
		if err == nil && len(waits) != len(g.olds)+len(g.news) {
			err = errAnswer
		}
		for n, at := range slices.Concat(g.olds, g.news) {
			if err != nil {
				results[at].Err = fmt.Errorf("ask for rate: %w", err)
				continue
			}
			wait := time.Duration(waits[n]) * time.Microsecond
			results[at].Value = rateAnswer{granted: wait >= 0, wait: max(wait, -wait), asked: asked, margin: margin}
		}
	}
	return results, nil
}

// rateGroup is what one webhook's deliveries ask for: places in the batch.
type rateGroup struct {
	webhookID  string
	rate       int
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
		g.rate = min(g.rate, a.rate)
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
	return []string{rateKeys + webhookID, rateKeys + webhookID + ":plan", rateBorn, rateKeys + webhookID + ":slow"}
}

// begin waits until a granted start may happen and reports whether it may still happen then. It
// must be the last thing before the attempt.
func (l *limiter) begin(ctx context.Context, a rateAnswer) bool {
	// By our clock the script ran between asked and now; the start must not be early in either case.
	if a.wait > 0 {
		timer := time.NewTimer(a.wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	lag := time.Since(a.asked) - a.wait
	known := time.Duration(l.lag.Load())
	if lag < known {
		lag = known - (known-lag)/64 // slow to forget
	}
	l.lag.Store(int64(lag))
	return time.Since(a.asked) <= a.wait+a.margin
}

// inGroups makes a long wait shorter, so that about groupSize deliveries come back together, in one
// task, and are told their own times then: a backlog of thousands is a few hundred tasks.
func inGroups(wait time.Duration, rate int) time.Duration {
	group := groupSize * time.Second / time.Duration(rate)
	if group < shortestGroup || wait < 2*group {
		return wait
	}
	return wait / group * group
}

// reportSlow tells all workers that a request may have come to the webhook's receiver later than it was
// granted, such as by a connection that took long to make: the next ones must keep their distance from it.
func (l *limiter) reportSlow(ctx context.Context, webhookID string, took time.Duration) {
	if took <= networkMargin/2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rateAhead)
	defer cancel()
	// Lost, the window stays as it is, and is wide enough for all but slow connections.
	_ = slowScript.Run(ctx, l.redis, []string{rateKeys + webhookID + ":slow"},
		min(took, longestSlow).Microseconds(), slowFor.Milliseconds()).Err()
}
