package queue

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// noticeChannel joins the processes on one Redis. It is lossy, and so is everything on it:
	// a second's poll stands behind it.
	noticeChannel  = "webhooks:{deliveries}:notice"
	noticeWake     = "wake"     // there may be a task
	noticeReturned = "returned" // a process could not enqueue for a while

	// pollInterval is how long an empty queue is left alone when no wake comes.
	pollInterval = time.Second
	// maxPickupWait bounds how long one dequeue waits in all. asynq counts the lease of 30 s from
	// before the wait, and extends only what has not run out.
	maxPickupWait = 5 * time.Second
	// errorPause keeps asynq, which tries again at once, from spinning on a broken Redis.
	errorPause = 250 * time.Millisecond
	// forwardBatch is how many tasks asynq's forwarding script moves at a time.
	forwardBatch = 100
	// forwardRest is how many times as long as it took pace rests after it moved tasks. The
	// in-process Redis sorts all that is scheduled whenever it is asked what is due, and answers
	// nobody else meanwhile: with a backlog that waits for a slow receiver, moving every task at
	// its very millisecond would leave no time for anything else.
	forwardRest = 9
)

// listen passes the notices of other processes on until ctx ends.
func (c *Conn) listen(ctx context.Context) {
	sub := c.client.Subscribe(ctx, noticeChannel)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	for msg := range sub.Channel(redis.WithChannelSize(1024)) {
		switch msg.Payload {
		case noticeWake:
			c.wakes.notify()
		case noticeReturned:
			c.returns.notify()
		}
	}
}

// publish sends a notice to every process. A notice that is lost delays, no more.
func (c *Conn) publish(ctx context.Context, notice string) {
	if c.embedded == nil {
		_ = c.client.Publish(ctx, noticeChannel, notice).Err()
	}
}

// pickup is the hook on the client that asynq's server uses. It turns asynq's polling into
// waiting: a dequeue that finds nothing returns when something came, not before. It also keeps
// forwarding exact to the millisecond, and asynq from waiting for a Redis that is away.
type pickup struct {
	conn    *Conn
	wake    <-chan struct{}
	stopped chan struct{}
	forward atomic.Pointer[[]any] // asynq's call that moves due tasks from scheduled to pending
}

// DialHook leaves dialling as it is.
func (p *pickup) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook leaves pipelines as they are.
func (p *pickup) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook treats the scripts that it knows, see pickup.
func (p *pickup) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s := parseScript(cmd.Args())
		if s.kind == scriptDequeue {
			return p.dequeue(ctx, cmd, s, next)
		}
		if p.conn.health.away.Load() {
			cmd.SetErr(ErrAway)
			return ErrAway
		}
		p.sharedTime(cmd, s)
		if s.kind == scriptForward {
			now := p.conn.now()
			cmd.Args()[s.firstArg], cmd.Args()[s.firstArg+2] = forwardNow(now), now.UnixNano()
			if cmd.Args()[3] == any(keyScheduled) && cmd.Name() == "evalsha" && p.forward.Load() == nil {
				args := append([]any(nil), cmd.Args()...)
				p.forward.Store(&args)
			}
		}
		err := next(ctx, cmd)
		if s.kind == scriptForward && err == nil {
			if reply, ok := cmd.(*redis.Cmd); ok {
				p.forwarded(ctx, reply)
			}
		}
		return err
	}
}

// leaseFor is how long asynq lets a task go without a sign of life.
const leaseFor = 30 * time.Second

// sharedTime puts the time that the processes share in the place of this process's own, where asynq
// speaks of leases: one whose clock is ahead would take the others' tasks for abandoned, and one
// whose clock is behind would have its own taken away.
func (p *pickup) sharedTime(cmd redis.Cmder, s script) {
	args := cmd.Args()
	switch {
	case s.kind == scriptExpired:
		args[s.firstArg] = p.conn.now().Add(-leaseFor).Unix()
	case cmd.Name() == "zadd" && len(args) > 3 && args[1] == any(keyLease): // key, XX, score, member, score, …
		for n := 3; n+1 < len(args); n += 2 {
			args[n] = float64(p.conn.now().Add(leaseFor).Unix())
		}
	}
}

// forwardNow is the time up to which tasks are moved, with the fraction that asynq cuts off.
func forwardNow(now time.Time) string {
	return strconv.FormatFloat(float64(now.UnixMilli())/1000, 'f', 3, 64)
}

// forwarded wakes the workers after tasks were moved, and returns how many were.
func (p *pickup) forwarded(ctx context.Context, reply *redis.Cmd) int64 {
	n, err := reply.Int64()
	if err != nil || n == 0 {
		return 0
	}
	p.conn.wakes.notify()
	if n > 1 {
		p.conn.publish(ctx, noticeWake) // more than one process may have work of it
	}
	return n
}

// dequeue runs asynq's dequeue until it brings a task, fails, or has waited long enough.
func (p *pickup) dequeue(ctx context.Context, cmd redis.Cmder, s script, next redis.ProcessHook) error {
	end := time.Now().Add(maxPickupWait)
	for {
		// A wake from before the dequeue is answered by the dequeue: its task is visible already.
		// One from after it stays in the channel.
		select {
		case <-p.wake:
		default:
		}
		if !p.conn.health.away.Load() {
			cmd.SetErr(nil)
			cmd.Args()[s.firstArg] = p.conn.now().Add(leaseFor).Unix() // asynq gave us the time before the wait
			err := next(ctx, cmd)
			if err != redis.Nil { //nolint:errorlint // go-redis returns it bare, and this is every dequeue
				if err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT") {
					p.wait(errorPause, nil)
				}
				return err
			}
		}
		stopped := p.wait(min(pollInterval, time.Until(end)), p.wake)
		if stopped || !time.Now().Before(end) {
			cmd.SetErr(redis.Nil)
			return redis.Nil
		}
	}
}

// wait waits for d, a wake or the stop, and reports whether it was the stop.
func (p *pickup) wait(d time.Duration, wake <-chan struct{}) (stopped bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.stopped:
		return true
	case <-wake:
	case <-timer.C:
	}
	return false
}

// pace moves scheduled tasks to the queue at their very time, where asynq looks only now and
// then. It knows of what this process schedules and of what comes after that; tasks that others
// scheduled may wait for asynq.
func (p *pickup) pace(ctx context.Context) {
	sooner, cancel := p.conn.sooner.subscribe()
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var next time.Time // zero: nothing known
	var rested time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-sooner:
			if ns := p.conn.soonest.Swap(0); ns != 0 {
				if at := time.Unix(0, ns); next.IsZero() || at.Before(next) {
					next = at
				}
			}
		case <-timer.C:
			began := time.Now()
			next = p.forwardDue(ctx)
			took := time.Since(began)
			// asynq's own rounds move tasks too, so there is no need to rest for longer than theirs.
			rested = time.Now().Add(min(forwardRest*took, forwardInterval))
		}
		if next.IsZero() {
			timer.Reset(time.Hour)
			continue
		}
		// The millisecond is that to which scores are rounded up.
		timer.Reset(max(time.Millisecond, next.Sub(p.conn.now())+time.Millisecond, time.Until(rested)))
	}
}

// forwardDue moves what is due and returns when the next task is; zero where none is. Where that
// cannot be known yet, it is when to look again.
func (p *pickup) forwardDue(ctx context.Context) time.Time {
	again := p.conn.now().Add(forwardInterval / 10)
	call := p.forward.Load()
	if call == nil || p.conn.health.away.Load() {
		return again // asynq has not had its first round, or moves it when Redis is back
	}
	ctx, cancel := context.WithTimeout(ctx, p.conn.opts.Timeout)
	defer cancel()
	for {
		now := p.conn.now()
		args := append([]any(nil), *call...)
		first := parseScript(args).firstArg
		args[first], args[first+2] = forwardNow(now), now.UnixNano()
		reply := p.conn.client.Do(ctx, args...)
		if reply.Err() != nil {
			return again
		}
		if p.forwarded(ctx, reply) < forwardBatch {
			break
		}
	}
	head, err := p.conn.client.ZRangeWithScores(ctx, keyScheduled, 0, 0).Result()
	if err != nil {
		return again
	}
	if len(head) == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(head[0].Score * 1000))
}
