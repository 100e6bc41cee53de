package queue

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// stuckAfter is how long an active task must have been without a valid lease before it is
	// removed. asynq itself brings back what has a lease that ran out, within a minute and a half.
	stuckAfter = 2 * time.Minute
	// maxActive bounds how many active tasks a pass looks at.
	maxActive = 4096
)

// dropStuck removes an active task that still has no lease, or one that ran out long ago.
//
// KEYS[1] -> active list, KEYS[2] -> lease set, KEYS[3] -> task
// ARGV[1] -> task id, ARGV[2] -> a lease before this Unix time has run out
//
// Returns 1 when the task was removed.
var dropStuck = redis.NewScript(`
local lease = redis.call("ZSCORE", KEYS[2], ARGV[1])
if lease and tonumber(lease) >= tonumber(ARGV[2]) then
	return 0
end
redis.call("ZREM", KEYS[2], ARGV[1])
local n = redis.call("LREM", KEYS[1], 0, ARGV[1])
if n > 0 then
	redis.call("DEL", KEYS[3])
end
return n`)

// heal removes from Redis what asynq trips over and would never remove itself. All of it may go:
// the database knows what is due.
func (r *Reconciler) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	if err := r.healTypes(ctx); err != nil {
		return err
	}
	return r.healActive(ctx)
}

// healTypes removes keys of the queue that hold something else than asynq puts there: every
// command on them would fail for ever.
func (r *Reconciler) healTypes(ctx context.Context) error {
	want := []struct{ key, kind string }{
		{keyPending, "list"},
		{keyActive, "list"},
		{keyLease, "zset"},
		{keyScheduled, "zset"},
		{keyRetry, "zset"},
		{keyArchived, "zset"},
		{keyCompleted, "zset"},
	}
	pipe := r.conn.client.Pipeline()
	kinds := make([]*redis.StatusCmd, len(want))
	for i, w := range want {
		kinds[i] = pipe.Type(ctx, w.key)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("read key types: %w", err)
	}
	for i, w := range want {
		if kind := kinds[i].Val(); kind == w.kind || kind == "none" {
			continue
		}
		if err := r.conn.client.Del(ctx, w.key).Err(); err != nil {
			return fmt.Errorf("remove key of wrong type: %w", err)
		}
		r.healed.Add(1)
		r.log.WarnContext(ctx, "queue key of wrong type removed", slog.String("key", w.key), slog.String("type", kinds[i].Val()))
	}
	return nil
}

// healActive removes tasks that are marked as active though nobody has them: asynq's recovery
// goes by the leases, so it never sees one whose lease is gone, and stops at one that it cannot
// read.
func (r *Reconciler) healActive(ctx context.Context) error {
	ids, err := r.conn.client.LRange(ctx, keyActive, 0, maxActive-1).Result()
	if err != nil {
		return fmt.Errorf("list active tasks: %w", err)
	}
	now := r.conn.now()
	expired := now.Add(-stuckAfter)
	pipe := r.conn.client.Pipeline()
	leases := make([]*redis.FloatCmd, len(ids))
	for i, id := range ids {
		leases[i] = pipe.ZScore(ctx, keyLease, id)
	}
	if len(ids) > 0 {
		if _, err := pipe.Exec(ctx); meansAway(err) {
			return fmt.Errorf("read leases: %w", err)
		}
	}
	seen := make(map[string]time.Time)
	for i, id := range ids {
		lease, err := leases[i].Result()
		if err == nil && lease >= float64(expired.Unix()) {
			continue
		}
		// Without a lease nothing tells since when; so it must be found twice.
		first, ok := r.stuck[id]
		if !ok {
			first = now
		}
		if err != nil && now.Sub(first) < stuckAfter {
			seen[id] = first
			continue
		}
		n, err := dropStuck.Run(ctx, r.conn.client, []string{keyActive, keyLease, keyTask + id}, id, expired.Unix()).Int64()
		if err != nil {
			return fmt.Errorf("remove stuck task: %w", err)
		}
		if n > 0 {
			r.healed.Add(1)
			r.log.WarnContext(ctx, "active task without a lease removed")
		}
	}
	r.stuck = seen
	return nil
}
