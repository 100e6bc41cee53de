package services

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// StartRedis makes a new, empty Redis and returns when it answers. It keeps nothing on disk unless
// the arguments say so; they are options of the command line (--name value) that override the defaults here.
func StartRedis(ctx context.Context, source Source, arguments ...string) (*Server, error) {
	return startOnFreePort(func(port int) (*Server, error) {
		return startRedis(ctx, source, port, arguments)
	})
}

func startRedis(ctx context.Context, source Source, port int, arguments []string) (*Server, error) {
	dir, err := ScratchDir("redis-")
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	server := &Server{
		url: fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", password, port),
		dir: dir, stopSignal: syscall.SIGTERM,
	}
	options, err := redis.ParseURL(server.url)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("parse own URL: %w", err), os.RemoveAll(dir))
	}
	options.MaxRetries, options.DialerRetries = -1, 1 // poll does the retrying
	server.ping = func(ctx context.Context) error {
		client := redis.NewClient(options)
		return errors.Join(client.Ping(ctx).Err(), client.Close())
	}
	defaults := []string{
		"--requirepass", password, "--save", "", "--appendonly", "no", "--databases", "1024", "--maxmemory-policy", "noeviction",
	}
	if source.Engine != "" {
		server.unit = &container{
			engine: source.Engine, name: "testenv-" + rand.Text(), image: source.Image,
			options: []string{"--publish", fmt.Sprintf("127.0.0.1:%d:6379", port)},
			args:    append(append([]string{"redis-server"}, defaults...), arguments...),
		}
		return server, server.launch(ctx)
	}
	fixed := []string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--daemonize", "no"}
	server.unit = &process{
		path: source.Path, args: append(append(fixed, defaults...), arguments...),
		dir: dir, logPath: filepath.Join(dir, "log"), deathNote: syscall.SIGKILL,
	}
	return server, server.launch(ctx)
}
