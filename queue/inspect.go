package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Sizes is what the queue holds, in tasks: one of them may stand for up to 32 deliveries.
type Sizes struct {
	Pending   int64
	Active    int64
	Scheduled int64
	Retry     int64
	Archived  int64
	Paused    bool // by an operator, in the queue's web UI
	// OldestPending is since when the task at the head has been waiting; zero where none waits.
	OldestPending time.Time
}

// Sizes looks at the queue, in two round trips.
func (c *Conn) Sizes(ctx context.Context) (Sizes, error) {
	const headLength = 8
	pipe := c.client.Pipeline()
	pending := pipe.LLen(ctx, keyPending)
	active := pipe.LLen(ctx, keyActive)
	scheduled := pipe.ZCard(ctx, keyScheduled)
	retry := pipe.ZCard(ctx, keyRetry)
	archived := pipe.ZCard(ctx, keyArchived)
	paused := pipe.Exists(ctx, keyPaused)
	head := pipe.LRange(ctx, keyPending, -headLength, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return Sizes{}, fmt.Errorf("read queue sizes: %w", err)
	}
	sizes := Sizes{
		Pending: pending.Val(), Active: active.Val(), Scheduled: scheduled.Val(),
		Retry: retry.Val(), Archived: archived.Val(), Paused: paused.Val() > 0,
	}
	since, err := c.oldest(ctx, head.Val())
	if err != nil {
		return Sizes{}, fmt.Errorf("read queue head: %w", err)
	}
	sizes.OldestPending = since
	return sizes, nil
}

// oldest is the earliest time since which one of the given tasks waits. A task that was handed
// back has none, so that one alone does not tell.
func (c *Conn) oldest(ctx context.Context, ids []string) (time.Time, error) {
	if len(ids) == 0 {
		return time.Time{}, nil
	}
	pipe := c.client.Pipeline()
	times := make([]*redis.StringCmd, len(ids))
	for i, id := range ids {
		times[i] = pipe.HGet(ctx, keyTask+id, "pending_since")
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) && meansAway(err) {
		return time.Time{}, err
	}
	var since time.Time
	for _, cmd := range times {
		ns, err := strconv.ParseInt(cmd.Val(), 10, 64)
		if err != nil || ns <= 0 {
			continue // handed back, or no task at all
		}
		if t := time.Unix(0, ns); since.IsZero() || t.Before(since) {
			since = t
		}
	}
	return since, nil
}
