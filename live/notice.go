package live

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// channel joins the processes on one Redis. It is lossy, and may be: the log is polled too.
const channel = "webhooks:{feed}:grown"

// tell passes on that this process has committed: to its own reader, and to other processes.
func (f *Feed) tell(ctx context.Context, grown <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-grown:
		}
		f.rouse()
		if f.opt.Redis == nil {
			continue
		}
		// A notice that is lost delays, no more: the reason is the queue's to tell.
		_ = f.opt.Redis.Publish(ctx, channel, "").Err()
		if !wait(ctx, spacing) {
			return
		}
	}
}

// hear wakes the reader when another process has committed. It listens from the time on that
// somebody follows here.
func (f *Feed) hear(ctx context.Context) {
	if f.opt.Redis == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-f.listen:
	}
	sub := f.opt.Redis.Subscribe(ctx, channel)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	for range sub.Channel(redis.WithChannelSize(64)) {
		f.rouse()
	}
}
