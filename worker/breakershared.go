package worker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/batch"
)

// KEYS[1] -> hash: s state (o open, h half open; none: closed), u until when it is open, p and d token
// and deadline of the probe, n up to when times to come back are given out, a<bucket> and f<bucket>
// attempts and failures; times in µs; KEYS[2] -> sorted set of webhooks whose circuit is not closed, by
// until when it is open; KEYS[3] -> sorted set of webhooks that fail, by the last failure; KEYS[4] -> channel
// on which the opening and closing of circuits is told
// ARGV[1] -> webhook, ARGV[2] -> probe's token or "", ARGV[3] -> its verdict: 0 unused, 1 well, 2 broken
// ARGV[4] -> bucket, ARGV[5] -> buckets, ARGV[6] -> cooldown, in µs; ARGV[7] -> least attempts,
// ARGV[8] -> threshold; ARGV[9..] -> age in buckets, attempts, failures, repeated
//
// Returns 1 where the circuit is open or half open afterwards, 2 where this call opened it, else 0.
var reportScript = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local bucket, buckets, cooldown = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local function text(n) return string.format("%.0f", n) end
local function open()
  redis.call("DEL", KEYS[1])
  redis.call("HSET", KEYS[1], "s", "o", "u", text(now + cooldown))
  redis.call("PEXPIRE", KEYS[1], math.ceil(cooldown / 1000) + 3600000)
  redis.call("ZADD", KEYS[2], text(now + cooldown), ARGV[1])
  redis.call("PUBLISH", KEYS[4], ARGV[1])
end

local state = redis.call("HGET", KEYS[1], "s")
if state then
  if ARGV[2] == "" then return 1 end
  if ARGV[3] == "1" then
    redis.call("DEL", KEYS[1])
    redis.call("ZREM", KEYS[2], ARGV[1])
    redis.call("PUBLISH", KEYS[4], ARGV[1])
    return 0
  end
  if state == "h" and redis.call("HGET", KEYS[1], "p") == ARGV[2] then
    if ARGV[3] == "2" then
      local held = redis.call("HGET", KEYS[1], "n")
      open()
      if held then redis.call("HSET", KEYS[1], "n", held) end
    else
      redis.call("HDEL", KEYS[1], "p", "d")
    end
  end
  return 1
end

local current = math.floor(now / bucket)
local failed = false
for i = 9, #ARGV, 3 do
  local at = text(current - tonumber(ARGV[i]))
  redis.call("HINCRBY", KEYS[1], "a" .. at, ARGV[i + 1])
  if ARGV[i + 2] ~= "0" then
    redis.call("HINCRBY", KEYS[1], "f" .. at, ARGV[i + 2])
    failed = true
  end
end
redis.call("PEXPIRE", KEYS[1], math.ceil(bucket * buckets / 1000) + 1000)
if not failed then return 0 end
redis.call("ZADD", KEYS[3], text(now), ARGV[1])
local attempts, failures = 0, 0
local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(string.sub(all[i], 2))
  if at <= current - buckets or at > current then
    redis.call("HDEL", KEYS[1], all[i])
  elseif string.sub(all[i], 1, 1) == "a" then
    attempts = attempts + tonumber(all[i + 1])
  else
    failures = failures + tonumber(all[i + 1])
  end
end
if attempts >= tonumber(ARGV[7]) and failures >= attempts * tonumber(ARGV[8]) then
  open()
  return 2
end
return 0`)

// KEYS[1] -> as above, ARGV[1] -> token for a probe, ARGV[2] -> how long it may take, ARGV[3] -> cooldown,
// ARGV[4] -> the gap behind the first that is held, ARGV[5] -> distance of the others, all in µs,
// ARGV[6] -> how many ask
//
// Returns 1 where the circuit is closed, else 0, followed by a number for each that asks: 0 it is the
// probe, n > 0 come back in n µs; and at last for how long nobody can be the probe, in µs.
var askScript = redis.NewScript(`
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local lease, cooldown, gap, distance = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function text(n) return string.format("%.0f", n) end
local c = redis.call("HMGET", KEYS[1], "s", "u", "d", "n")
if not c[1] then return {1} end
local state, ends = c[1], math.min(tonumber(c[2] or "") or 0, now + cooldown)
local deadline, held = tonumber(c[3] or "") or 0, tonumber(c[4] or "") or 0
local answers = {0}
local n = tonumber(ARGV[6])
local free = state == "o" and ends <= now
if state == "h" then free = deadline <= now or deadline > now + 2 * lease end
if free then
  redis.call("HSET", KEYS[1], "s", "h", "p", ARGV[1], "d", text(now + lease))
  redis.call("PEXPIRE", KEYS[1], math.ceil(lease / 1000) + 3600000)
  state = "h"
  answers[2] = 0
  n = n - 1
end
for i = 1, n do
  if state == "o" and held < ends then
    held = ends
  elseif state == "o" and held < ends + gap then
    held = ends + gap
  elseif state == "h" and held < now + gap then
    held = now + gap
  else
    held = held + distance
  end
  answers[#answers + 1] = math.ceil(held - now)
end
if n > 0 then
  redis.call("HSET", KEYS[1], "n", text(held))
  redis.call("PEXPIRE", KEYS[1], math.ceil((held - now) / 1000) + 3600000)
end
answers[#answers + 1] = state == "o" and math.floor(math.max(ends - now, 0)) or 0
return answers`)

// report is the flush of reports: one call for each webhook's counts and one for each probe.
func (c *circuits) report(ctx context.Context, reports []circuitReport) ([]batch.Result[struct{}], error) {
	type sent struct {
		webhookID string
		counts    map[int64]tally
	}
	var calls []scriptCall
	var sents []sent
	seen := map[string]bool{}
	now := time.Now()
	current := c.bucket(now)
	add := func(r circuitReport, counts map[int64]tally) {
		calls = append(calls, c.reportCall(r, counts, current))
		sents = append(sents, sent{r.webhookID, counts})
	}
	for _, r := range reports {
		if r.token != "" {
			add(r, nil)
			continue
		}
		if seen[r.webhookID] {
			continue
		}
		seen[r.webhookID] = true
		c.mu.Lock()
		counts := map[int64]tally{}
		for b, t := range c.view(r.webhookID).unsent {
			if b > current-circuitBuckets {
				counts[b] = t
			}
		}
		c.mu.Unlock()
		add(r, counts)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	replies := runScripts(ctx, c.redis, calls)
	for i, s := range sents {
		state, err := replies[i].Int()
		c.mu.Lock()
		v := c.view(s.webhookID)
		switch {
		case err != nil:
			// Not sent: the counts stay, and what they say is decided here until Redis is back.
			v.alone.look(now, v.unsent, c.opt)
		default:
			v.subtract(s.counts)
			c.change(s.webhookID, v, func() {
				v.alone = lonely{}
				v.set(state != 0, time.Now())
			})
		}
		c.mu.Unlock()
		if err == nil && state == 2 {
			c.log.WarnContext(ctx, "circuit opened", slog.String("webhook", s.webhookID), slog.Duration("cooldown", c.opt.Cooldown))
		}
	}
	return make([]batch.Result[struct{}], len(reports)), nil
}

func (c *circuits) reportCall(r circuitReport, counts map[int64]tally, current int64) scriptCall {
	args := []any{
		r.webhookID, r.token, int(r.verdict), c.bucketLength().Microseconds(), circuitBuckets, c.opt.Cooldown.Microseconds(),
		c.opt.MinAttempts, c.opt.Threshold,
	}
	for b, t := range counts {
		args = append(args, current-b, t.attempts, t.failures)
	}
	return scriptCall{script: reportScript, keys: []string{circuitKeys + r.webhookID, circuitsOpen, circuitsWatched, circuitsChannel}, args: args}
}

func (v *circuitView) subtract(counts map[int64]tally) {
	for b, t := range counts {
		left := v.unsent[b]
		left.attempts -= t.attempts
		left.failures -= t.failures
		if left.attempts <= 0 {
			delete(v.unsent, b)
		} else {
			v.unsent[b] = left
		}
	}
}

// set notes whether the circuit is open. What began before it opened tells nothing about after.
func (v *circuitView) set(open bool, now time.Time) {
	if open == v.open {
		return
	}
	v.open, v.changed = open, now
	if open {
		v.generation++
		v.unsent = nil
		v.failed = time.Time{}
		v.held, v.until = time.Time{}, time.Time{}
	}
}

// plan notes what others were told who asked at a time: how long each waits, and how long the circuit is open.
func (v *circuitView) plan(asked time.Time, waits []int64) {
	after := func(micros int64) time.Time { return asked.Add(time.Duration(micros) * time.Microsecond) }
	for _, wait := range waits[:len(waits)-1] {
		if come := after(wait); come.After(v.held) {
			v.held = come
		}
	}
	v.until = after(waits[len(waits)-1])
}

// park says for how long a delivery that is not claimed yet would certainly be held back; 0: it must ask.
// It comes behind those that have asked.
func (c *circuits) park(webhookID string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, now := c.views[webhookID], time.Now()
	if v == nil || !v.open || v.until.Sub(now) < shortestWait || v.held.Before(v.until) {
		return 0
	}
	v.held = v.held.Add(heldReturn)
	return v.held.Sub(now)
}

// answer is the flush of asks: one call a webhook.
func (c *circuits) answer(ctx context.Context, asks []circuitAsk) ([]batch.Result[circuitAnswer], error) {
	byID := map[string][]int{}
	var ids []string
	for i, a := range asks {
		if byID[a.webhookID] == nil {
			ids = append(ids, a.webhookID)
		}
		byID[a.webhookID] = append(byID[a.webhookID], i)
	}
	calls, tokens := make([]scriptCall, len(ids)), make([]string, len(ids))
	for i, id := range ids {
		slices.SortStableFunc(byID[id], func(a, b int) int { return asks[a].created.Compare(asks[b].created) })
		tokens[i] = uuid.NewString()
		calls[i] = scriptCall{script: askScript, keys: []string{circuitKeys + id}, args: []any{
			tokens[i], asks[byID[id][0]].lease.Microseconds(), c.opt.Cooldown.Microseconds(),
			probeGap.Microseconds(), heldReturn.Microseconds(), len(byID[id]),
		}}
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	asked := time.Now()
	replies := runScripts(ctx, c.redis, calls)
	results := make([]batch.Result[circuitAnswer], len(asks))
	for i, id := range ids {
		waits, err := replies[i].Int64Slice()
		if err == nil && (len(waits) == 0 || waits[0] == 0 && len(waits) != 2+len(byID[id])) {
			err = errAnswer
		}
		if err == nil {
			c.mu.Lock()
			v := c.view(id)
			if !v.changed.After(asked) {
				c.change(id, v, func() { v.set(waits[0] == 0, time.Now()) })
			}
			if v.open && waits[0] == 0 {
				v.plan(asked, waits[1:])
			}
			c.mu.Unlock()
		}
		for n, at := range byID[id] {
			switch {
			case err != nil:
				results[at].Err = fmt.Errorf("ask for circuit: %w", err)
			case waits[0] == 1:
				results[at].Value = circuitAnswer{granted: true}
			case waits[1+n] == 0:
				results[at].Value = circuitAnswer{granted: true, token: tokens[i]}
			default:
				results[at].Value = circuitAnswer{wait: time.Duration(waits[1+n]) * time.Microsecond}
			}
		}
	}
	return results, nil
}

// watch learns which circuits other workers have opened and closed, and which webhooks fail there,
// until stop.
func (c *circuits) watch(stop <-chan struct{}) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		case <-c.poked:
		}
		c.poll()
	}
}

// listen makes watch look as soon as another worker opens or closes a circuit, until stop.
func (c *circuits) listen(stop <-chan struct{}) {
	sub := c.redis.Subscribe(context.Background(), circuitsChannel)
	defer func() { _ = sub.Close() }()
	changes := sub.Channel()
	for {
		select {
		case <-stop:
			return
		case _, ok := <-changes:
			if !ok {
				return
			}
		}
		select {
		case c.poked <- struct{}{}:
		default: // it is about to look anyway
		}
	}
}

func (c *circuits) poll() {
	ctx, cancel := context.WithTimeout(context.Background(), pollEvery)
	defer cancel()
	asked := time.Now()
	before := func(d time.Duration) string { return strconv.FormatInt(asked.Add(-d).UnixMicro(), 10) }
	pipe := c.redis.Pipeline()
	pipe.ZRemRangeByScore(ctx, circuitsOpen, "-inf", before(circuitMemory))
	pipe.ZRemRangeByScore(ctx, circuitsWatched, "-inf", before(c.opt.Window))
	all := pipe.ZRange(ctx, circuitsOpen, 0, -1)
	failing := pipe.ZRange(ctx, circuitsWatched, 0, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return // what is known stays
	}
	var owed []string
	c.mu.Lock()
	open := make(map[string]bool, len(all.Val()))
	for _, id := range all.Val() {
		open[id] = true
		if c.views[id] == nil {
			c.views[id] = &circuitView{touched: asked}
		}
	}
	for _, id := range failing.Val() {
		// What this worker does not know it has nothing to tell of.
		if v := c.views[id]; v != nil {
			v.failed = asked
			if len(v.unsent) > 0 {
				owed = append(owed, id)
			}
		}
	}
	for id, v := range c.views {
		if !v.changed.After(asked) {
			c.change(id, v, func() { v.set(open[id], time.Now()) })
		}
		if !v.isOpen() && asked.Sub(v.touched) > 2*c.opt.Window {
			delete(c.views, id)
		}
	}
	c.mu.Unlock()
	for _, id := range owed {
		_ = c.reports.Submit(circuitReport{webhookID: id}, func(struct{}, error) {}) // or with the next poll
	}
}
