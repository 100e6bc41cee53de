package testenv

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

// callLimit bounds each call to a shared server, busy as it may be with other tests.
const callLimit = time.Minute

// PostgresURL creates an empty database in the run's Postgres and returns its URL. The database is
// dropped when the test ends, open connections or not.
func PostgresURL(t testing.TB) string {
	t.Helper()
	// template0 takes no connections, so nobody can be in the way of copying it.
	return postgresDatabase(t, "template0")
}

func postgresDatabase(t testing.TB, template string) string {
	t.Helper()
	owner := variable(t, services.DatabaseURLEnv)
	name := "test_" + strings.ToLower(rand.Text())
	if err := administer(owner, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("create database: %v", err)
	}
	t.Cleanup(func() {
		if err := administer(owner, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop database: %v", err)
		}
	})
	return databaseURL(t, owner, name)
}

func databaseURL(t testing.TB, owner, name string) string {
	t.Helper()
	parsed, err := url.Parse(owner)
	if err != nil {
		t.Fatalf("%s is not a URL", services.DatabaseURLEnv) // the error would show its password
	}
	parsed.Path = "/" + name
	return parsed.String()
}

// A Model is what the databases of many tests begin with. It is made once in a process: copying it
// costs a part of what Prepare does.
type Model struct {
	// Prepare fills the empty database at the URL, and leaves no connection to it.
	Prepare func(url string) error

	mu   sync.Mutex
	name string
}

// PostgresCopy is PostgresURL of a database that begins as the model, which is gone when the run is
// over. Where the command testenv is not there to end it, each database is prepared for itself.
func PostgresCopy(t testing.TB, model *Model) string {
	t.Helper()
	if name := model.made(t); name != "" {
		return postgresDatabase(t, name)
	}
	own := PostgresURL(t)
	if err := model.Prepare(own); err != nil {
		t.Fatalf("prepare database: %v", err)
	}
	return own
}

// made makes the model's database unless there is one, and names it.
func (m *Model) made(t testing.TB) string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.name != "" {
		return m.name
	}
	owner := variable(t, services.DatabaseURLEnv)
	name := "model_" + strings.ToLower(rand.Text())
	kept, err := services.KeepModelDatabase(name)
	if err != nil {
		t.Fatal(err)
	}
	if !kept {
		return ""
	}
	if err := administer(owner, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		t.Fatalf("create model database: %v", err)
	}
	if err := m.Prepare(databaseURL(t, owner, name)); err != nil {
		t.Fatalf("prepare model database: %v", err)
	}
	// A backend that is about to end, or one that vacuums, would be in the way of each copy.
	if err := administer(owner, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false"); err != nil {
		t.Fatalf("close model database: %v", err)
	}
	end := "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '" + name + "'"
	if err := administer(owner, end); err != nil {
		t.Fatalf("close model database: %v", err)
	}
	m.name = name
	return name
}

// administration is the process' connection to the run's server: making one costs the server more than
// what is said on it.
var administration struct {
	mu         sync.Mutex
	owner      string
	connection *pgx.Conn
}

// administer runs one statement as the owner.
func administer(owner, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	a := &administration
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.connection == nil || a.owner != owner || a.connection.IsClosed() {
		if a.connection != nil {
			_ = a.connection.Close(ctx) // it is of another server, or broken
		}
		connection, err := pgx.Connect(ctx, owner)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		a.owner, a.connection = owner, connection
	}
	_, err := a.connection.Exec(ctx, statement)
	return err
}

// leaseLength frees the logical database of a test that died without its clean-up.
const leaseLength = time.Hour

// RedisURL returns the URL of an empty logical database in the run's Redis that no other test uses
// until this one ends. The server and its pub/sub channels are shared: a test that flushes all, stops
// the server, or counts messages takes a RedisServer. When all databases are taken it waits a minute.
func RedisURL(t testing.TB) string {
	t.Helper()
	options, err := redis.ParseURL(variable(t, services.RedisURLEnv))
	if err != nil {
		t.Fatalf("%s is not a Redis URL", services.RedisURLEnv) // the error would show its password
	}
	options.DB = 0 // where the leases are
	leases := redis.NewClient(options)
	closeClient := func(client *redis.Client) {
		if err := client.Close(); err != nil {
			t.Errorf("close Redis client: %v", err)
		}
	}
	defer closeClient(leases)
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()

	number, err := leaseDatabase(ctx, leases)
	if err != nil {
		t.Fatalf("take a logical Redis database: %v", err)
	}
	flush := func() error {
		own := *options
		own.DB = number
		client := redis.NewClient(&own)
		defer closeClient(client)
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		return client.FlushDB(ctx).Err()
	}
	t.Cleanup(func() {
		if err := flush(); err != nil {
			t.Errorf("empty logical Redis database: %v", err)
			return
		}
		client := redis.NewClient(options)
		defer closeClient(client)
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		if err := client.Del(ctx, leaseKey(number)).Err(); err != nil {
			t.Errorf("give logical Redis database back: %v", err)
		}
	})
	if err := flush(); err != nil { // an earlier holder may have died
		t.Fatalf("empty logical Redis database: %v", err)
	}
	parsed, err := url.Parse(variable(t, services.RedisURLEnv))
	if err != nil {
		t.Fatalf("%s is not a URL", services.RedisURLEnv)
	}
	parsed.Path = "/" + strconv.Itoa(number)
	return parsed.String()
}

// leaseDatabase takes a free logical database, never number 0.
func leaseDatabase(ctx context.Context, leases *redis.Client) (int, error) {
	count := 16 // Redis' own default, for a server that does not tell
	if answer, err := leases.ConfigGet(ctx, "databases").Result(); err == nil {
		if told, err := strconv.Atoi(answer["databases"]); err == nil {
			count = told
		}
	}
	if count < 2 {
		return 0, fmt.Errorf("the server has %d logical databases and tests need two", count)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		// A counter spreads the tests; without it each would try all the taken ones first.
		turn, err := leases.Incr(ctx, "testenv:turn").Result()
		if err != nil {
			return 0, fmt.Errorf("count tests: %w", err)
		}
		number := 1 + int(turn%int64(count-1))
		taken, err := leases.SetNX(ctx, leaseKey(number), os.Getpid(), leaseLength).Result()
		if err != nil {
			return 0, fmt.Errorf("lease database: %w", err)
		}
		if taken {
			return number, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("all %d databases are taken: %w", count-1, ctx.Err())
		case <-ticker.C:
		}
	}
}

func leaseKey(number int) string { return "testenv:lease:" + strconv.Itoa(number) }

// variable returns what the run set, and fails the test when there is no run.
func variable(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: tests need a Postgres and a Redis, run `make test`, "+
			"or `make services` and then go test with what it prints", name)
	}
	return value
}
