// Package app is a running process: it opens what the configuration names, wires the packages
// together in one place, starts them in order and stops them in the opposite one. Nothing below
// it knows who its neighbours are.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/graph"
	"github.com/intervengine/webhooks/intake"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker"
)

// Role is what a process does.
type Role string

// The roles of a process.
const (
	RoleAll    Role = "all"
	RoleAPI    Role = "api"
	RoleWorker Role = "worker"
)

// DatabaseFile is the embedded database's file in DATA_DIR.
const DatabaseFile = "webhooks.db"

// StopMargin is what a stop may take beyond SHUTDOWN_GRACE to write down what is left.
const StopMargin = 5 * time.Second

// databaseTimeout bounds every statement that a caller waits for.
const databaseTimeout = 2 * time.Second

const (
	// startPatience is how long a process that starts waits for Postgres. A restart or a failover takes seconds,
	// and whoever supervises processes waits longer with each one that ends.
	startPatience = 15 * time.Second
	// startPause is what lies between its tries.
	startPause = 250 * time.Millisecond
)

// Options says what to run.
type Options struct {
	Config *Config
	Role   Role
	Logger *slog.Logger
	// LogDropped is how many lines the logger's output has dropped so far; nil: it drops none.
	LogDropped func() uint64
	Version    string
	// Inbox is the built-in receiver of `dev`, mounted at /inbox; nil: none.
	Inbox http.Handler
	// SessionKey is a platform key of this process alone, for `dev`'s login link; "": none.
	SessionKey string
}

// App is one process. Start and Stop are called once each.
type App struct {
	options    Options
	logger     *slog.Logger
	lifecycle  *lifecycle
	faults     chan error
	metrics    *prometheus.Registry
	keyring    *signing.Keyring
	store      *models.Store
	queue      *queue.Conn
	auth       *auth.Authenticator
	sessions   *sessions
	intake     *intake.Intake
	control    *control.Control
	live       *live.Feed
	worker     *worker.Worker
	retention  *worker.Retention
	reconciler *queue.Reconciler
	replayer   *control.Replayer
	graph      *graph.Handler
	addr       net.Addr
	adminAddr  net.Addr
	now        func() time.Time
	started    time.Time
	adminKey   string
}

// New opens everything that the process needs: the database (migrated under a lock), the queue,
// the master keys. What it opened is closed again where it fails.
func New(ctx context.Context, options Options) (_ *App, err error) {
	a := &App{options: options, logger: options.Logger, faults: make(chan error, 1), metrics: prometheus.NewRegistry()}
	a.started = time.Now()
	a.lifecycle = &lifecycle{logger: options.Logger, fault: func(err error) {
		select {
		case a.faults <- err:
		default: // the first fault stops the process; the others follow from it
		}
	}}
	defer func() {
		if err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopMargin)
			defer cancel()
			_ = a.lifecycle.stop(stopCtx)
		}
	}()
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	if err := a.wire(); err != nil {
		return nil, err
	}
	return a, nil
}

// open reaches for what is outside of the process.
func (a *App) open(ctx context.Context) (err error) {
	c := a.options.Config
	if a.keyring, err = OpenKeyring(c); err != nil {
		return err
	}
	dsn := c.DatabaseURL
	if dsn == "" {
		dsn = filepath.Join(c.DataDir, DatabaseFile)
	}
	if a.store, err = models.Open(ctx, models.Options{DSN: dsn, Logger: a.logger, StatementTimeout: databaseTimeout}); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	a.now = a.store.Clock
	a.lifecycle.onStop("database", func(context.Context) error { return a.store.Close() })
	if err := a.prepareDatabase(ctx); err != nil {
		return err
	}
	if err := a.ensureAdminKey(ctx); err != nil {
		return err
	}
	if a.queue, err = queue.Open(ctx, queue.Options{RedisURL: c.RedisURL, Logger: a.logger, Now: a.now}); err != nil {
		return fmt.Errorf("open queue: %w", err)
	}
	a.lifecycle.onStop("queue", func(context.Context) error { return a.queue.Close() })
	return nil
}

// prepareDatabase makes the database this program's, once it is there. What it does it may do again.
func (a *App) prepareDatabase(ctx context.Context) error {
	patience, stop := context.WithTimeout(ctx, startPatience)
	defer stop()
	for waiting := false; ; waiting = true {
		err := a.tryDatabase(ctx)
		var away *models.UnavailableError
		if err == nil || a.store.Dialect() != models.DialectPostgres || !errors.As(err, &away) || away.Refused() {
			return err
		}
		if !waiting {
			a.logger.WarnContext(ctx, "waiting for the database", slog.Duration("most", startPatience), slog.Any("error", err))
		}
		select {
		case <-patience.Done():
			return err
		case <-time.After(startPause):
		}
	}
}

func (a *App) tryDatabase(ctx context.Context) error {
	if err := a.store.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := a.store.Now(ctx); err != nil { // Clock is true from here on
		return fmt.Errorf("read the database's clock: %w", err)
	}
	if err := a.checkSeals(ctx); err != nil {
		return err
	}
	if err := a.store.ForfeitClaims(ctx); err != nil {
		return fmt.Errorf("end claims of an earlier process: %w", err)
	}
	if err := a.store.EnsureBuiltinTypes(ctx, catalogue.Builtin()); err != nil {
		return fmt.Errorf("write built-in event types: %w", err)
	}
	return nil
}

// ensureAdminKey makes the first platform key where there is none and none is configured.
func (a *App) ensureAdminKey(ctx context.Context) error {
	if a.options.Config.AdminAPIKey != "" || a.options.Role == RoleWorker {
		return nil
	}
	key, prefix, hash := auth.NewKey()
	made, err := a.store.CreateFirstAPIKey(ctx, &models.APIKey{
		ID: models.NewID(models.PrefixAPIKey), Name: "admin", Scopes: models.StringList{string(models.ScopeAdmin)},
		Prefix: prefix, Hash: hash,
	})
	if err != nil {
		return fmt.Errorf("create admin key: %w", err)
	}
	if made {
		a.adminKey = key
	}
	return nil
}

// wire makes the parts and hands each its neighbours.
func (a *App) wire() (err error) {
	c := a.options.Config
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	adminKey := c.AdminAPIKey
	if adminKey == "" {
		adminKey = a.options.SessionKey
	}
	a.auth, err = auth.New(auth.Options{
		Store: a.store, Logger: a.logger, AdminKey: adminKey, Now: a.now,
		JWT: auth.JWTOptions{Secret: []byte(c.JWTSecret), JWKSURL: c.JWTJWKSURL, Issuer: c.JWTIssuer, Audience: c.JWTAudience},
	})
	if err != nil {
		return &ConfigError{Problems: []string{err.Error()}}
	}
	a.live = live.New(live.Options{Store: a.store, Logger: a.logger, Redis: a.otherProcesses(), Retention: c.FeedRetention})
	a.sessions = newSessions(a.keyring, a.auth, a.now)
	guard := egress.NewGuard(c.EgressAllow)
	a.intake = intake.New(intake.Options{
		Store: a.store, Queue: a.queue, Logger: a.logger, MaxEventBytes: c.MaxEventBytes, MaxBatch: c.MaxBatch,
		IdempotencyWindow: c.IdempotencyWindow, CommitTimeout: databaseTimeout, Now: a.now,
	})
	if a.options.Role != RoleWorker {
		a.control = control.New(control.Options{
			Store: a.store, Keyring: a.keyring, Guard: guard, Queue: a.queue, Tester: a.intake, Logger: a.logger,
			Catalogue: a.intake.Catalogue, KeysChanged: a.auth.Invalidate, Version: a.options.Version, Now: a.now,
			Defaults: control.Defaults{Timeout: c.AttemptTimeout, Schedule: c.RetrySchedule},
		})
		a.graph = graph.New(graph.Options{
			Store: a.store, Intake: a.intake, Control: a.control, Live: a.live, Auth: a.auth, Logger: a.logger,
			DisableAfter: c.DisableAfter, Now: a.now,
			Circuits: worker.NewCircuits(a.queue.Client()),
			Limits:   c.queryLimits(),
			Streams: graph.StreamLimits{
				Subscriptions: c.MaxSubscriptions, Idle: c.StreamIdle, Lifetime: c.StreamLifetime,
			},
		})
	}
	if a.options.Role != RoleAPI {
		client := egress.NewClient(egress.Options{Guard: guard, KeepBytes: c.KeepResponseBytes})
		a.worker, err = worker.New(worker.Options{
			Store: a.store, Keyring: a.keyring, Client: client, Queue: a.queue, Logger: a.logger, Registerer: a.metrics, Version: a.options.Version,
			Timeout: c.AttemptTimeout, Schedule: c.RetrySchedule, Concurrency: c.WorkerConcurrency, WebhookShare: c.WebhookShare,
			RetryAfterMax: c.RetryAfterMax, Redis: a.queue.Client(), DisableAfter: c.DisableAfter, Notifier: a.intake,
			Breaker: worker.BreakerOptions{
				Window: c.BreakerWindow, Cooldown: c.BreakerCooldown, MinAttempts: c.BreakerMinAttempts, Threshold: c.BreakerThreshold,
			},
		})
		if err != nil {
			return fmt.Errorf("make worker: %w", err)
		}
		a.retention = worker.NewRetention(worker.RetentionOptions{
			Store: a.store, Logger: a.logger, Keep: c.Retention, Interval: c.RetentionInterval,
		})
		a.replayer = control.NewReplayer(control.ReplayerOptions{
			Store: a.store, Catalogue: a.intake.Catalogue, Queue: a.queue, Logger: a.logger,
		})
		a.reconciler = queue.NewReconciler(a.queue, a.store, queue.ReconcilerOptions{Interval: c.ReconcileInterval, Logger: a.logger})
	}
	a.metrics.MustRegister(newGauges(a))
	return nil
}

// otherProcesses is how the live feeds of several processes wake each other; nil where there is one.
func (a *App) otherProcesses() redis.UniversalClient {
	if a.queue.Embedded() {
		return nil
	}
	return a.queue.Client()
}

// Start begins to serve. The listener comes last, so that nothing is accepted before it can be
// kept.
func (a *App) Start(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopMargin)
		defer cancel()
		return errors.Join(err, a.lifecycle.stop(stopCtx))
	}
	return nil
}

func (a *App) start(ctx context.Context) (err error) {
	c := a.options.Config
	a.lifecycle.run("clock", a.store.RunClock)
	a.lifecycle.run("authentication", a.auth.Run)
	a.lifecycle.run("configuration watch", a.watch)
	a.lifecycle.run("live feed", a.live.Run)
	if a.worker != nil {
		a.worker.Start()
		a.lifecycle.onStop("worker", a.worker.Stop)
		server := queue.NewServer(a.queue, queue.ServerOptions{
			// More bundles than attempts: those that wait for a slot cost a goroutine, no more.
			Concurrency: c.WorkerConcurrency + 64, Handler: a.worker.Handle, Logger: a.logger, ShutdownTimeout: c.ShutdownGrace,
		})
		if err := server.Start(); err != nil {
			return fmt.Errorf("start queue server: %w", err)
		}
		a.lifecycle.onStop("queue server", func(ctx context.Context) error {
			// Both have the one grace.
			grace, cancel := context.WithTimeout(ctx, c.ShutdownGrace)
			defer cancel()
			var finished sync.WaitGroup
			finished.Go(func() { a.worker.Finish(grace) })
			server.Stop()
			finished.Wait()
			return nil
		})
		a.lifecycle.run("reconciler", a.reconciler.Run)
		a.lifecycle.run("replays", a.replayer.Run)
		a.lifecycle.run("retention", a.retention.Run)
	}
	var here intake.Attempter
	if a.worker != nil {
		here = a.worker
	}
	a.intake.Start(here)
	a.lifecycle.onStop("intake", a.intake.Stop)
	if a.worker != nil {
		// After intake, which its notices go through.
		a.lifecycle.run("webhook health", a.worker.RunHealth)
	}
	if c.AdminListenAddr != "" {
		mux := http.NewServeMux()
		a.operatorRoutes(mux)
		if a.graph != nil {
			a.loginRoutes(mux)
		}
		if a.adminAddr, err = a.listen(ctx, "operators'", c.AdminListenAddr, secured(mux)); err != nil {
			return err
		}
	}
	if a.addr, err = a.listen(ctx, "HTTP", c.ListenAddr, a.routes()); err != nil {
		return err
	}
	if a.graph != nil {
		// Before the listener: it does not know of WebSockets, and would wait for the other streams.
		a.lifecycle.onStop("streams", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, c.ShutdownGrace/2)
			defer cancel()
			return a.graph.Stop(ctx)
		})
	}
	a.logger.InfoContext(ctx, "serving", "role", string(a.options.Role), "address", a.addr.String(), "database", a.store.Dialect(),
		"queue", map[bool]string{true: "in-process", false: "redis"}[a.queue.Embedded()], "version", a.options.Version)
	return nil
}

// Stop ends everything in order, within ctx: the listener first, what is in flight is finished,
// what cannot be finished is handed back.
func (a *App) Stop(ctx context.Context) error { return a.lifecycle.stop(ctx) }

// Addr is where the process listens, once Start returned.
func (a *App) Addr() net.Addr { return a.addr }

// AdminAddr is where the operators' pages are, once Start returned; nil: beside everything else.
func (a *App) AdminAddr() net.Addr { return a.adminAddr }

// Faults gives the first part that ended by itself; the process should stop then.
func (a *App) Faults() <-chan error { return a.faults }

// NewAdminKey is the key that this start made, to be shown once; "" where there was one already.
func (a *App) NewAdminKey() string { return a.adminKey }

// Keyring opens what the process sealed; for commands that run inside it.
func (a *App) Keyring() *signing.Keyring { return a.keyring }

// Control is what callers may change, for commands that run inside the process.
func (a *App) Control() *control.Control { return a.control }

// Intake takes events in, for commands that run inside the process.
func (a *App) Intake() *intake.Intake { return a.intake }

// Store is the database, for commands that run inside the process.
func (a *App) Store() *models.Store { return a.store }

// LoginLink is the path of a one-time login with the process's own key.
func (a *App) LoginLink() string { return "/login#token=" + a.sessions.link(a.options.SessionKey) }
