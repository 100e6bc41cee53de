package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

const (
	// forwardInterval is how often asynq looks for scheduled tasks that are due. Those of this
	// process are moved at their time, see pickup.pace.
	forwardInterval = 500 * time.Millisecond
	// checkInterval is asynq's sleep after an empty answer, of which there is one in
	// maxPickupWait: the waiting is done in pickup.
	checkInterval = 5 * time.Millisecond
	// handBackWait is what handlers get to put down what they hold once the grace is over.
	handBackWait = 2 * time.Second
	// abortWait is asynq's own grace; by then everything that was going to return has.
	abortWait = 100 * time.Millisecond

	retryBase = 500 * time.Millisecond
	retryCap  = 30 * time.Second
)

// errStopping is the cause with which handlers' contexts end.
var errStopping = errors.New("server is stopping")

// ServerOptions tells NewServer how to work. Handler and Logger have no default.
type ServerOptions struct {
	// Concurrency is how many bundles are in hand at once. Zero: 64.
	Concurrency int
	// Handler works a bundle of up to 32 deliveries. An error means a fault of ours (the database
	// is away): the bundle comes back after a pause of at most 30 s. What became of each delivery
	// is the handler's own business.
	//
	// ctx ends when the Server's grace is over, and at no other time: asynq cancels its tasks
	// when it could not renew their lease for 30 s, but a request that is on its way goes on, and
	// the claim in the database keeps another worker from repeating it. The same ids may come
	// again at any time, and at the same time.
	Handler func(ctx context.Context, ids []string) error
	Logger  *slog.Logger
	// ShutdownTimeout is how long Stop waits for handlers before it ends their contexts. Zero: 20 s.
	ShutdownTimeout time.Duration
}

// Server hands due bundles to a handler. Start it once.
type Server struct {
	conn     *Conn
	opts     ServerOptions
	log      *slog.Logger
	pickup   *pickup
	asynq    *asynq.Server
	unwake   func()
	base     context.Context //nolint:containedctx // the handlers' life, which outlasts every call
	cancel   context.CancelCauseFunc
	slots    chan struct{}
	idle     int // slots that Stop has taken
	pacing   sync.WaitGroup
	stopPace context.CancelFunc
	stopping sync.Once
	noise    throttle
}

// NewServer prepares a Server on conn, which must outlive it.
func NewServer(conn *Conn, opts ServerOptions) *Server {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 64
	}
	opts.ShutdownTimeout = orDefault(opts.ShutdownTimeout, 20*time.Second)
	wake, unwake := conn.wakes.subscribe()
	s := &Server{
		conn:   conn,
		opts:   opts,
		log:    opts.Logger,
		pickup: &pickup{conn: conn, wake: wake, stopped: make(chan struct{})},
		unwake: unwake,
		slots:  make(chan struct{}, opts.Concurrency),
	}
	s.base, s.cancel = context.WithCancelCause(context.Background())
	s.asynq = asynq.NewServerFromRedisClient(conn.hooked(s.pickup), asynq.Config{
		Concurrency:              opts.Concurrency,
		Queues:                   map[string]int{queueName: 1},
		TaskCheckInterval:        checkInterval,
		DelayedTaskCheckInterval: forwardInterval,
		JanitorInterval:          time.Minute, // nothing is retained
		ShutdownTimeout:          abortWait,
		RetryDelayFunc:           s.retryDelay,
		IsFailure:                func(err error) bool { return !errors.Is(err, errStopping) },
		ErrorHandler:             asynq.ErrorHandlerFunc(s.logError),
		Logger:                   &asynqLogger{log: opts.Logger, conn: conn},
		LogLevel:                 asynq.DebugLevel, // slog decides what is kept
	})
	return s
}

// Start begins to pick up. It does not wait for Redis, which may be away.
func (s *Server) Start() error {
	if err := s.asynq.Start(asynq.HandlerFunc(s.process)); err != nil {
		return fmt.Errorf("start queue server: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopPace = cancel
	s.pacing.Go(func() { s.pickup.pace(ctx) })
	return nil
}

// Stop picks nothing more up, waits for handlers as long as the grace lasts, then ends their
// contexts and gives what they do not finish back to the queue. It takes a few seconds more than
// the grace at most, and is idempotent. A Server that never started may be stopped too.
func (s *Server) Stop() {
	s.stopping.Do(func() {
		close(s.pickup.stopped)
		s.asynq.Stop()
		if !s.drain(s.opts.ShutdownTimeout) {
			s.log.Info("grace is over, handing back")
		}
		s.cancel(errStopping)
		s.drain(handBackWait)
		s.asynq.Shutdown()
		if s.stopPace != nil {
			s.stopPace()
		}
		s.pacing.Wait()
		s.unwake()
	})
}

// drain waits until no handler runs, but no longer than d, and reports whether it came to that.
// It takes the slots as they come free; a task that comes after that is handed back.
func (s *Server) drain(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for s.idle < cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
			s.idle++
		case <-timer.C:
			return false
		}
	}
	return true
}

// process works one task. ctx is asynq's and says who the task is; its end is ignored, see
// ServerOptions.Handler.
func (s *Server) process(ctx context.Context, t *asynq.Task) error {
	ids, err := decodePayload(t.Type(), t.Payload())
	if err != nil {
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry)
	}
	// asynq counts tasks in hand itself, but forgets those whose lease it lost.
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.base.Done():
		return errStopping
	}
	if err := s.opts.Handler(s.base, ids); err != nil { //nolint:contextcheck // outlasts the task, see ServerOptions.Handler
		if s.base.Err() != nil {
			return errStopping
		}
		if retried, _ := asynq.GetRetryCount(ctx); retried >= maxRetry-1 {
			// The Reconciler will enqueue these again; an archived copy would help nobody.
			return fmt.Errorf("%w: %w", err, asynq.RevokeTask)
		}
		return err
	}
	return nil
}

// retryDelay is for our own faults alone: half a second, doubled up to half a minute, ±25 %.
func (s *Server) retryDelay(n int, err error, _ *asynq.Task) time.Duration {
	if errors.Is(err, errStopping) {
		return 0 // another process is free to take it
	}
	d := retryCap
	if n < 6 {
		d = retryBase << n
	}
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2)) //nolint:gosec // spreading load, not guarding anything
}

func (s *Server) logError(ctx context.Context, t *asynq.Task, err error) {
	switch {
	case errors.Is(err, errUnreadable):
		// Neither type nor payload is logged: they may be anybody's.
		s.log.WarnContext(ctx, "unreadable task archived", slog.Int("payload_size", len(t.Payload())))
	case errors.Is(err, errStopping):
		s.log.DebugContext(ctx, "task handed back")
	case s.noise.allow(time.Second):
		s.log.WarnContext(ctx, "bundle failed, will be retried", slog.Any("error", err))
	default:
		s.log.DebugContext(ctx, "bundle failed, will be retried", slog.Any("error", err))
	}
}

// asynqLogger passes asynq's log on. While Redis is away asynq complains with every round, which
// the Conn has said once already.
type asynqLogger struct {
	log   *slog.Logger
	conn  *Conn
	noise throttle
}

func (l *asynqLogger) write(level slog.Level, args []any) {
	if level > slog.LevelDebug && (l.conn.health.away.Load() || !l.noise.allow(time.Second)) {
		level = slog.LevelDebug
	}

	l.log.Log(context.Background(), level, "asynq", slog.String("detail", fmt.Sprint(args...)))
}

// Debug logs at debug level.
func (l *asynqLogger) Debug(args ...any) { l.write(slog.LevelDebug, args) }

// Info logs at debug level: start and stop are told by those who own the Server.
func (l *asynqLogger) Info(args ...any) { l.write(slog.LevelDebug, args) }

// Warn logs a warning.
func (l *asynqLogger) Warn(args ...any) { l.write(slog.LevelWarn, args) }

// Error logs a warning: asynq tries again in every case, and the Reconciler stands behind it.
func (l *asynqLogger) Error(args ...any) { l.write(slog.LevelWarn, args) }

// Fatal logs an error. It does not end the process, and asynq's server never calls it.
func (l *asynqLogger) Fatal(args ...any) { l.write(slog.LevelError, args) }
