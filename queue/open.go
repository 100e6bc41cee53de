package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options tells Open where the queue lives. Only Logger has no default.
type Options struct {
	// RedisURL is redis://[user:password@]host[:port][/db], or rediss:// for TLS. Empty: a Redis
	// inside this process, which forgets everything when the process ends.
	RedisURL string
	Logger   *slog.Logger
	// PoolSize bounds the connections to Redis. Zero: ten for each CPU.
	PoolSize int
	// DialTimeout bounds connecting. Zero: 2 s.
	DialTimeout time.Duration
	// Timeout bounds each command. Zero: 2 s. Callers of Enqueue never wait that long.
	Timeout time.Duration
	// EnqueueWait bounds how long a caller of Enqueue waits for Redis. Zero: 25 ms.
	EnqueueWait time.Duration
	// Now is the clock that decides when a scheduled task is due, and that processes which share a
	// Redis must agree about: the database's. Nil: time.Now.
	Now func() time.Time
}

// Errors of a Conn.
var (
	// ErrAway says that Redis cannot be used now. What was to be enqueued is left to the Reconciler.
	ErrAway = errors.New("redis is away")
	// ErrFull says that more waits to be enqueued than is kept. The rest is left to the Reconciler.
	ErrFull = errors.New("too much waits to be enqueued")
	// ErrClosed says that the Conn was closed.
	ErrClosed = errors.New("queue is closed")
)

// Conn is the connection to the queue. It is safe for concurrent use.
type Conn struct {
	opts     Options
	now      func() time.Time
	log      *slog.Logger
	redisOpt *redis.Options
	client   client
	embedded *embedded // nil: a real Redis
	sender   *asynq.Client
	capture  *captureHook
	health   health
	wakes    notifier     // tasks may have become available
	returns  notifier     // Redis came back, or lost its memory
	sooner   notifier     // something was scheduled in this process
	soonest  atomic.Int64 // the earliest of those, Unix ns; 0: taken
	outbox   outbox
	window   window // of an embedded queue
	counters counters
	noise    throttle
	cancel   context.CancelFunc
	done     sync.WaitGroup
	closing  sync.Once
	closeErr error

	mu   sync.Mutex
	made []*redis.Client // handed out by ConnOpt
}

// Open connects to the queue. A Redis that cannot be reached is no error: the Conn is then
// degraded until it returns. Errors never show the URL's password. Close the Conn after use.
func Open(ctx context.Context, opts Options) (*Conn, error) {
	opts.DialTimeout = orDefault(opts.DialTimeout, 2*time.Second)
	opts.Timeout = orDefault(opts.Timeout, 2*time.Second)
	opts.EnqueueWait = orDefault(opts.EnqueueWait, 25*time.Millisecond)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := &Conn{opts: opts, now: opts.Now, log: opts.Logger, capture: newCaptureHook()}
	c.outbox.ready = make(chan struct{}, 1)
	c.window.most, c.window.left = maxHeld, make(chan struct{}, 1)
	c.health.instance = rand.Text()
	if opts.RedisURL == "" {
		e, err := startEmbedded()
		if err != nil {
			return nil, fmt.Errorf("start embedded queue: %w", err)
		}
		c.embedded = e
		c.redisOpt = e.options()
	} else {
		ro, err := parseURL(opts.RedisURL)
		if err != nil {
			return nil, err
		}
		c.redisOpt = ro
	}
	c.tune()
	c.client = client{Client: redis.NewClient(c.redisOpt), subscriptions: newSubscriptions(c.redisOpt)}
	if c.embedded != nil {
		c.client.AddHook(&steadyClock{server: c.embedded.server, start: time.Now()})
	}
	capturing := c.hooked(c.capture)
	c.sender = asynq.NewClientFromRedisClient(capturing)

	if err := c.check(ctx); err != nil {
		if errors.Is(err, errTooOld) {
			return nil, errors.Join(fmt.Errorf("open queue: %w", err), c.shut())
		}
		c.setAway(ctx, err)
	}
	// The background work outlives the call, not the Conn.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.start(func() { c.monitor(run) })
	c.start(func() { c.send(run) })
	if c.embedded == nil {
		c.start(func() { c.listen(run) })
	} else {
		c.start(func() { c.embedded.tick(run) })
	}
	return c, nil
}

// CheckURL says whether raw has the form that Options.RedisURL needs. Its error quotes nothing of it.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

var errURL = errors.New("redis URL is not valid: expected redis://[user:password@]host[:port][/db], or rediss:// for TLS")

// parseURL reads a Redis URL. Its errors quote nothing of it, because it holds a password.
func parseURL(raw string) (*redis.Options, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "redis" && u.Scheme != "rediss") {
		return nil, errURL
	}
	ro, err := redis.ParseURL(raw)
	if err != nil {
		return nil, errURL
	}
	if port := u.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, errURL
		}
	}
	return ro, nil
}

// tune sets what every client of this package shares.
func (c *Conn) tune() {
	ro := c.redisOpt
	ro.PoolSize = c.opts.PoolSize
	ro.DialTimeout = c.opts.DialTimeout
	ro.ReadTimeout = c.opts.Timeout
	ro.WriteTimeout = c.opts.Timeout
	ro.ContextTimeoutEnabled = true
	// A retry would only double the time until Redis counts as away; the Reconciler repairs.
	ro.MaxRetries = -1
	ro.DialerRetries = 1
	ro.PipelinePoolSize = 2
	// Servers and proxies that speak only what 6.2 spoke are enough.
	ro.Protocol = 2
	ro.DisableIdentity = true
	ro.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// hooked is a client on the same connections whose commands pass h.
func (c *Conn) hooked(h redis.Hook) redis.UniversalClient {
	clone := c.client.WithTimeout(c.opts.Timeout)
	clone.AddHook(h)
	return client{Client: clone, subscriptions: c.client.subscriptions}
}

func (c *Conn) start(run func()) { c.done.Go(run) }

// Client is the connection for other uses of the same Redis (limits, the live feed). It belongs
// to the Conn: do not close it.
func (c *Conn) Client() redis.UniversalClient { return c.client }

// Embedded reports whether the queue lives in this process.
func (c *Conn) Embedded() bool { return c.embedded != nil }

// Ping asks Redis whether it is there.
func (c *Conn) Ping(ctx context.Context) error {
	if err := c.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}

// ConnOpt opens connections to the same Redis for asynq's own tools, such as its web UI. The
// clients that it makes may be closed by their user, and are closed with the Conn.
func (c *Conn) ConnOpt() asynq.RedisConnOpt { return connOpt{c} }

type connOpt struct{ conn *Conn }

// MakeRedisClient makes a client with a small pool of its own.
func (o connOpt) MakeRedisClient() any {
	ro := *o.conn.redisOpt
	ro.PoolSize = 4
	client := redis.NewClient(&ro)
	o.conn.mu.Lock()
	defer o.conn.mu.Unlock()
	o.conn.made = append(o.conn.made, client)
	return client
}

// Close sends what still waits, for a second at most, and lets go of Redis. Stop Servers and
// Reconcilers before. It is idempotent.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.outbox.close()
		c.cancel()
		c.done.Wait()
		c.closeErr = c.shut()
	})
	return c.closeErr
}

func (c *Conn) shut() error {
	c.mu.Lock()
	made := c.made
	c.made = nil
	c.mu.Unlock()
	for _, m := range made {
		_ = m.Close() // its user may have closed it already, which is no fault
	}
	err := errors.Join(c.client.subscriptions.Close(), c.client.Close())
	if c.embedded != nil {
		c.embedded.close()
	}
	if err != nil {
		return fmt.Errorf("close redis client: %w", err)
	}
	return nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}
