package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// generationKey holds a random value for as long as Redis remembers anything. When it is gone
	// or another, so are the tasks: a flush, a restart without persistence, an empty replica.
	generationKey = "webhooks:{deliveries}:generation"

	probeInterval     = time.Second
	probeIntervalAway = 250 * time.Millisecond
)

var errTooOld = errors.New("redis is older than 6.2")

// health is what is known of Redis.
type health struct {
	away     atomic.Bool
	instance string // what this process writes as generation
	// Only the monitor (and Open before it) use these two.
	generation string
	checked    bool

	mu     sync.Mutex
	reason error
	since  time.Time
}

// Degraded says why Redis cannot be used now; nil: it can. Emitting goes on, and the Reconciler
// enqueues what was left once Redis is back.
func (c *Conn) Degraded() error {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	return c.health.reason
}

// monitor asks Redis every second, more often while it is away, whether it can be written to and
// whether it still has its memory.
func (c *Conn) monitor(ctx context.Context) {
	for {
		wait := probeInterval
		if c.health.away.Load() {
			wait = probeIntervalAway
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := c.check(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.setAway(ctx, err)
		default:
			c.setBack(ctx)
		}
	}
}

// check probes Redis. A changed generation is announced as a return.
func (c *Conn) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout+c.opts.Timeout)
	defer cancel()
	if !c.health.checked && c.embedded == nil {
		if err := c.checkServer(ctx); err != nil {
			return err
		}
		c.health.checked = true
	}
	pipe := c.client.Pipeline()
	// SETNX is refused by a replica and by a full memory even where it would change nothing.
	pipe.SetNX(ctx, generationKey, c.health.instance, 0)
	get := pipe.Get(ctx, generationKey)
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	seen := c.health.generation
	c.health.generation = get.Val()
	if seen != "" && seen != get.Val() {
		c.log.WarnContext(ctx, "redis lost its memory, repairing the queue")
		c.returns.notify()
	}
	return nil
}

// checkServer looks once at what Redis is.
func (c *Conn) checkServer(ctx context.Context) error {
	server, err := c.client.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	version := infoField(server, "redis_version")
	if major, minor, ok := parseVersion(version); ok && (major < 6 || major == 6 && minor < 2) {
		return fmt.Errorf("%w: version %d.%d", errTooOld, major, minor)
	}
	memory, err := c.client.Info(ctx, "memory").Result()
	if err != nil {
		return err
	}
	if policy := infoField(memory, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		c.log.WarnContext(ctx, "redis may evict queued tasks; set maxmemory-policy to noeviction",
			slog.String("policy", policy))
	}
	return nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func parseVersion(v string) (major, minor int, ok bool) {
	parts := strings.SplitN(v, ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err == nil && err2 == nil
}

// setAway opens the circuit: until the monitor closes it, nobody waits for Redis.
func (c *Conn) setAway(ctx context.Context, err error) {
	c.health.mu.Lock()
	fresh := c.health.reason == nil
	if fresh {
		c.health.since = time.Now()
	}
	c.health.reason = fmt.Errorf("%w: %w", ErrAway, err)
	c.health.away.Store(true)
	c.health.mu.Unlock()
	if fresh {
		c.log.WarnContext(ctx, "redis is away; deliveries wait for the reconciler", slog.Any("error", err))
	}
}

func (c *Conn) setBack(ctx context.Context) {
	c.health.mu.Lock()
	was := c.health.reason != nil
	away := time.Since(c.health.since)
	c.health.reason = nil
	c.health.away.Store(false)
	c.health.mu.Unlock()
	if !was {
		return
	}
	c.log.InfoContext(ctx, "redis is back", slog.Duration("away", away.Round(time.Millisecond)))
	c.wakes.notify()
	c.returns.notify()
	// The process that reconciles may have seen no fault: the line that broke was ours alone.
	c.publish(ctx, noticeReturned)
}

// meansAway reports whether err says that Redis as a whole cannot be used, and not that one
// command was refused.
func meansAway(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) {
		return false
	}
	if _, ok := errors.AsType[redis.Error](err); !ok {
		return true
	}
	for _, prefix := range []string{
		"READONLY", "LOADING", "NOAUTH", "WRONGPASS", "OOM", "MASTERDOWN", "CLUSTERDOWN", "MOVED",
		"ASK", "TRYAGAIN", "NOPERM", "MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED",
	} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	// Scripts pass the refusal of an inner command on in their own words.
	msg := err.Error()
	return strings.Contains(msg, "READONLY") || strings.Contains(msg, "OOM command not allowed") ||
		strings.Contains(msg, "max number of clients")
}
