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
	server := &Server{
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
	address := func(password string) string {
		return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)
	}
	if source.Engine != "" {
		password := rand.Text()
		server.url = address(password)
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
	credential, data, password, err := initPostgres(ctx, source, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	server.url = address(password)
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

// initPostgres makes the data directory, owned by the account that the server will run as, and
// returns it with the password of the user postgres.
func initPostgres(ctx context.Context, source Source, dir string) (credential *syscall.Credential, data, password string, err error) {
	credential, err = unprivileged()
	if err != nil {
		return nil, "", "", err
	}
	model, err := clusterModel(ctx, source, credential)
	if err != nil {
		return nil, "", "", err
	}
	home, err := handOver(dir, credential)
	if err != nil {
		return nil, "", "", err
	}
	if model == "" {
		data, password, err = initCluster(ctx, source, home, credential)
		return credential, data, password, err
	}
	data = filepath.Join(home, "data")
	if err := runAs(ctx, credential, home, "cp", "-R", "-p", filepath.Join(model, "data"), data); err != nil {
		return nil, "", "", err
	}
	content, err := os.ReadFile(filepath.Join(model, "password"))
	if err != nil {
		return nil, "", "", fmt.Errorf("read password: %w", err)
	}
	return credential, data, string(content), nil
}

// handOver makes a directory in dir that belongs to the account.
func handOver(dir string, credential *syscall.Credential) (string, error) {
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	return home, chown(home, credential)
}

func chown(path string, credential *syscall.Credential) error {
	if credential == nil {
		return nil
	}
	if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
		return fmt.Errorf("hand over data directory: %w", err)
	}
	return nil
}

// initCluster makes a cluster in home.
func initCluster(ctx context.Context, source Source, home string, credential *syscall.Credential) (data, password string, err error) {
	password = rand.Text()
	passwordFile := filepath.Join(home, "initial")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return "", "", fmt.Errorf("write password: %w", err)
	}
	if err := chown(passwordFile, credential); err != nil {
		return "", "", err
	}
	data = filepath.Join(home, "data")
	// Syncing here would protect a directory that no crash can make worth keeping.
	if err := runAs(ctx, credential, home, filepath.Join(source.Path, "initdb"), "--no-sync", "--pgdata", data,
		"--username", "postgres", "--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--locale", "C"); err != nil {
		return "", "", err
	}
	return data, password, os.Remove(passwordFile)
}

// runAs runs a program as the account, in dir, to its end.
func runAs(ctx context.Context, credential *syscall.Credential, dir, program string, arguments ...string) error {
	command := exec.CommandContext(ctx, program, arguments...)
	command.Dir = dir
	command.SysProcAttr = ownGroup(syscall.SIGKILL)
	command.SysProcAttr.Credential = credential
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, lastLines(string(output), 5))
	}
	return nil
}
