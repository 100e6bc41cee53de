package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

// bench is one call of the command: what it started, and what it found.
type bench struct {
	options
	log        io.Writer
	began      time.Time
	self       string // this program
	dir        string // scratch, on disk
	serverPath string
	machine    string
	tables     []*table

	postgres, redis *services.Server
	backing         []party // Postgres and Redis, where their processes can be seen
	databases       int
	serverEnv       []string // what servers are started with besides
	receiver        *receiverProcess
}

// newBench builds the server and starts the receiver, and where they are needed Postgres and Redis.
func newBench(ctx context.Context, o options, log io.Writer) (b *bench, err error) {
	b = &bench{options: o, log: log, began: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.self, err = os.Executable(); err != nil {
		return b, fmt.Errorf("find own program: %w", err)
	}
	if b.dir, err = services.ScratchDir("bench-"); err != nil {
		return b, err
	}
	if b.serverPath = o.server; b.serverPath == "" {
		b.serverPath = filepath.Join(b.dir, "webhooks")
		pkg := "github.com/intervengine/webhooks"
		if o.profile != "" {
			pkg += "/bench/profserver"
		}
		b.logf("building %s", pkg)
		if err := build(ctx, log, pkg, b.serverPath); err != nil {
			return b, err
		}
	}
	if b.receiver, err = startReceiver(ctx, b.self); err != nil {
		return b, err
	}
	described := []string{fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())}
	if b.baseline || slices.Contains(b.stacks, production) {
		versions, err := b.startServices(ctx)
		if err != nil {
			return b, err
		}
		described = append(described, versions)
	}
	flush, err := b.flushTime()
	if err != nil {
		return b, err
	}
	b.machine = strings.Join(append(described, "an fsync takes "+text(flush)), "; ")
	b.logf("%s", b.machine)
	return b, nil
}

// startServices starts a Postgres and a Redis of the benchmark's own, and says which.
func (b *bench) startServices(ctx context.Context) (string, error) {
	postgres, redisSource, err := services.Locate(ctx, b.log)
	if err != nil {
		return "", err
	}
	if b.postgres, err = services.StartPostgres(ctx, postgres, "min_wal_size=1GB"); err != nil {
		return "", fmt.Errorf("start Postgres: %w", err)
	}
	if b.redis, err = services.StartRedis(ctx, redisSource); err != nil {
		return "", fmt.Errorf("start Redis: %w", err)
	}
	connection, err := pgx.Connect(ctx, b.postgres.URL())
	if err != nil {
		return "", fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = connection.Close(ctx) }()
	var version, fsync, synchronous string
	var backend int
	err = connection.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('fsync'),
		current_setting('synchronous_commit'), pg_backend_pid()`).Scan(&version, &fsync, &synchronous, &backend)
	if err != nil {
		return "", fmt.Errorf("ask Postgres: %w", err)
	}
	if err := useWAL(ctx, connection); err != nil {
		return "", err
	}
	client, err := b.redisClient()
	if err != nil {
		return "", err
	}
	defer func() { _ = client.Close() }()
	info, err := client.InfoMap(ctx, "server").Result()
	if err != nil {
		return "", fmt.Errorf("ask Redis: %w", err)
	}
	// In a container they count their processes from 1, and cannot be told apart from outside.
	if s, err := readStat(backend); err == nil && postgres.Engine == "" {
		b.backing = append(b.backing, party{"Postgres", s.parent})
	}
	if pid, err := strconv.Atoi(info["Server"]["process_id"]); err == nil && redisSource.Engine == "" {
		b.backing = append(b.backing, party{"Redis", pid})
	}
	return fmt.Sprintf("Postgres %s (fsync %s, synchronous_commit %s), Redis %s", version, fsync, synchronous,
		info["Server"]["redis_version"]), nil
}

func (b *bench) redisClient() (*redis.Client, error) {
	o, err := redis.ParseURL(b.redis.URL())
	if err != nil {
		return nil, errors.New("the Redis URL is not one") // the error would show its password
	}
	return redis.NewClient(o), nil
}

// newDatabase makes an empty database and gives its URL.
func (b *bench) newDatabase(ctx context.Context) (string, error) {
	connection, err := pgx.Connect(ctx, b.postgres.URL())
	if err != nil {
		return "", fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = connection.Close(ctx) }()
	b.databases++
	name := "bench_" + strconv.Itoa(b.databases)
	if _, err := connection.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", fmt.Errorf("create database: %w", err)
	}
	return withPath(b.postgres.URL(), name), nil
}

// newRedis gives the URL of a logical database that nobody has used. It goes with newDatabase.
func (b *bench) newRedis() string { return withPath(b.redis.URL(), strconv.Itoa(b.databases)) }

func withPath(raw, path string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic("bench: own URL: " + err.Error())
	}
	u.Path = "/" + path
	return u.String()
}

// flushTime is how long the disk takes to make a small write durable, which bounds every commit.
func (b *bench) flushTime() (time.Duration, error) {
	file, err := os.CreateTemp(b.dir, "flush-")
	if err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	defer func() { _ = file.Close() }()
	times := make([]time.Duration, 50)
	for n := range times {
		began := time.Now()
		if _, err := file.Write(make([]byte, 8<<10)); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		if err := file.Sync(); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		times[n] = time.Since(began)
	}
	return median(times), nil
}

// close stops and deletes everything.
func (b *bench) close() error {
	var errs []error
	if b.receiver != nil {
		errs = append(errs, b.receiver.process.stop())
	}
	for _, server := range []*services.Server{b.redis, b.postgres} {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// logf writes a line of progress.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.log, "bench %5.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// useWAL makes the files of Postgres' log that the benchmark will fill. A server that has run for a while
// uses those again that it has; a new one makes one for every 16 MiB, and whoever commits then waits until
// it is written.
func useWAL(ctx context.Context, connection *pgx.Conn) error {
	const files = 48
	for range files {
		if _, err := connection.Exec(ctx, "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()"); err != nil {
			return fmt.Errorf("switch Postgres' log: %w", err)
		}
	}
	if _, err := connection.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("make a checkpoint: %w", err)
	}
	return nil
}
