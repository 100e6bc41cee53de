package services

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// StartPostgres makes a new, empty Postgres in a directory of its own and returns when it answers.
// Commits are durable as in production (fsync on), so that killing it proves something. Settings are
// name=value pairs that override the defaults here. As root it runs as the user postgres or nobody.
func StartPostgres(ctx context.Context, source Source, settings ...string) (*Server, error) {
	return startOnFreePort(func(port int) (*Server, error) {
		return startPostgres(ctx, source, port, settings)
	})
}

func startPostgres(ctx context.Context, source Source, port int, settings []string) (_ *Server, err error) {
	dir, err := ScratchDir("postgres-")
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	server := &Server{
		url: fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port),
		dir: dir,
		// Fast shutdown: open sessions are told to go, nothing committed needs recovery.
		stopSignal: syscall.SIGINT,
	}
	server.ping = func(ctx context.Context) error {
		connection, err := pgx.Connect(ctx, server.url)
		if err != nil {
			return err
		}
		return connection.Close(ctx)
	}
	arguments := []string{}
	for _, setting := range append([]string{
		"max_connections=400", "shared_buffers=128MB", "max_wal_size=2GB", "checkpoint_timeout=15min",
		"log_min_messages=warning", "log_checkpoints=off",
	}, settings...) {
		arguments = append(arguments, "-c", setting) // of two, the later counts
	}
	if source.Engine != "" {
		server.unit = &container{
			engine: source.Engine, name: "testenv-" + rand.Text(), image: source.Image,
			options: []string{
				"--publish", fmt.Sprintf("127.0.0.1:%d:5432", port),
				"--env", "POSTGRES_PASSWORD=" + password, "--shm-size", "256m",
			},
			args: append([]string{"postgres"}, arguments...),
		}
		return server, server.launch(ctx)
	}
	credential, data, err := initPostgres(ctx, source, dir, password)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	server.unit = &process{
		path: filepath.Join(source.Path, "postgres"), dir: data, credential: credential,
		args: append([]string{
			"-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + data,
		}, arguments...),
		logPath: filepath.Join(dir, "log"), pidFile: filepath.Join(data, "postmaster.pid"),
		// Immediate shutdown takes the children along, which killing the parent does not.
		deathNote: syscall.SIGQUIT,
	}
	return server, server.launch(ctx)
}

// initPostgres makes the data directory, owned by the account that the server will run as.
func initPostgres(ctx context.Context, source Source, dir, password string) (*syscall.Credential, string, error) {
	credential, err := unprivileged()
	if err != nil {
		return nil, "", err
	}
	home, passwordFile := filepath.Join(dir, "home"), filepath.Join(dir, "home", "password")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, "", fmt.Errorf("make data directory: %w", err)
	}
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return nil, "", fmt.Errorf("write password: %w", err)
	}
	if credential != nil {
		for _, path := range []string{home, passwordFile} {
			if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
				return nil, "", fmt.Errorf("hand over data directory: %w", err)
			}
		}
	}
	data := filepath.Join(home, "data")
	// Syncing here would protect a directory that no crash can make worth keeping.
	initdb := exec.CommandContext(ctx, filepath.Join(source.Path, "initdb"), "--no-sync", "--pgdata", data,
		"--username", "postgres", "--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--locale", "C")
	initdb.Dir = home
	initdb.SysProcAttr = ownGroup(syscall.SIGKILL)
	initdb.SysProcAttr.Credential = credential
	if output, err := initdb.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("initdb: %w\n%s", err, lastLines(string(output), 5))
	}
	return credential, data, os.Remove(passwordFile)
}
