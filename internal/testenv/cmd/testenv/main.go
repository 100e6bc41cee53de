// Command testenv runs a command, as a rule the tests, with a Postgres and a Redis of its own:
//
//	testenv -- go test ./...
//
// It finds or installs the servers, starts them on random ports of 127.0.0.1, names them in the
// command's environment (TEST_DATABASE_URL, TEST_REDIS_URL, TEST_POSTGRES_BIN, TEST_REDIS_BINARY),
// passes signals on, and at the end stops and deletes everything, what the tests left behind
// included. A URL that the environment already holds is used as it is. Without a command it prints
// the variables and keeps the servers until a signal comes.
//
// The exit code is the command's, or 1 when a server cannot be had.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

func main() {
	fsync := flag.String("fsync", "on", "Postgres' fsync: off is faster and proves nothing about crashes")
	flag.Parse()
	code, err := run(context.Background(), *fsync, flag.Args(), os.Stdout, progress{os.Stderr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "testenv: %v\n", err)
	}
	os.Exit(code)
}

// progress marks each line as ours among the command's own.
type progress struct{ to io.Writer }

func (p progress) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(p.to, "testenv: %s", line); err != nil {
		return 0, err
	}
	return len(line), nil
}

func run(ctx context.Context, fsync string, command []string, out, log io.Writer) (code int, err error) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	dir, err := services.ScratchDir("testenv-")
	if err != nil {
		return 1, err
	}
	began := time.Now()
	defer func() {
		if count := services.KillLeftovers(ctx, dir); count > 0 {
			fmt.Fprintf(log, "ended %d processes that the command left\n", count)
		}
		if errRemove := os.RemoveAll(dir); errRemove != nil {
			err = errors.Join(err, fmt.Errorf("delete %s: %w", dir, errRemove))
			return
		}
		fmt.Fprintf(log, "deleted %s, done after %s\n", dir, time.Since(began).Round(time.Millisecond))
	}()

	starting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	interrupted := make(chan os.Signal, 1)
	started := make(chan struct{})
	go func() {
		select {
		case received := <-signals:
			interrupted <- received
			giveUp()
		case <-started:
		}
	}()
	environment, stop, err := provide(starting, dir, fsync, log)
	defer func() { err = errors.Join(err, stop()) }()
	close(started)
	select {
	case received := <-interrupted:
		return exitCode(received), fmt.Errorf("interrupted by %s", received)
	default:
	}
	if err != nil {
		return 1, err
	}
	if len(command) == 0 {
		for _, variable := range environment {
			fmt.Fprintf(out, "export %s='%s'\n", variable.name, variable.value)
		}
		fmt.Fprintln(log, "serving until a signal comes")
		fmt.Fprintf(log, "received %s\n", <-signals)
		return 0, nil
	}
	return execute(command, environment, signals, log)
}

type variable struct{ name, value string }

// provide makes sure of both servers and returns the variables that name them, with a function that
// stops what was started. That function is never nil.
func provide(ctx context.Context, dir, fsync string, log io.Writer) (_ []variable, stop func() error, err error) {
	var running []*services.Server
	var foreign string // a Postgres that stays when the run has ended
	stop = func() error {
		var errs []error
		if foreign != "" {
			errs = append(errs, services.DropModelDatabases(context.WithoutCancel(ctx), foreign))
		}
		for _, server := range running {
			errs = append(errs, server.Close())
		}
		return errors.Join(errs...)
	}
	postgres, redis, err := services.Locate(ctx, log)
	if err != nil {
		return nil, stop, err
	}
	// Private servers of single tests go to the same place, so that it is deleted as a whole.
	if err := os.Setenv(services.ScratchEnv, dir); err != nil {
		return nil, stop, fmt.Errorf("name the scratch directory: %w", err)
	}
	if err := services.MakeModelsDir(dir); err != nil {
		return nil, stop, err
	}
	environment := []variable{
		{services.ScratchEnv, dir},
		{services.PostgresSourceEnv, postgres.String()},
		{services.RedisSourceEnv, redis.String()},
	}
	for _, service := range []struct {
		env   string
		start func() (*services.Server, error)
	}{
		{services.DatabaseURLEnv, func() (*services.Server, error) {
			return services.StartPostgres(ctx, postgres, "fsync="+fsync)
		}},
		{services.RedisURLEnv, func() (*services.Server, error) { return services.StartRedis(ctx, redis) }},
	} {
		if url := os.Getenv(service.env); url != "" {
			fmt.Fprintf(log, "using the server that %s names\n", service.env)
			environment = append(environment, variable{service.env, url})
			if service.env == services.DatabaseURLEnv {
				foreign = url
			}
			continue
		}
		began := time.Now()
		server, err := service.start()
		if err != nil {
			return nil, stop, fmt.Errorf("start the server for %s: %w", service.env, err)
		}
		running = append(running, server)
		fmt.Fprintf(log, "started the server for %s at %s in %s\n", service.env, server.Addr(), time.Since(began).Round(time.Millisecond))
		environment = append(environment, variable{service.env, server.URL()})
	}
	return environment, stop, nil
}

// execute runs the command to its end. The first signal is passed on, the second kills.
func execute(command []string, environment []variable, signals <-chan os.Signal, log io.Writer) (int, error) {
	child := exec.Command(command[0], command[1:]...) //nolint:noctx // the caller's own command; signals end it
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = os.Environ()
	for _, variable := range environment {
		child.Env = append(child.Env, variable.name+"="+variable.value)
	}
	// Its own group: Ctrl-C reaches it once, from here, and what it started is reached with it.
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		return 1, fmt.Errorf("start command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	var interrupt os.Signal
	for {
		select {
		case received := <-signals:
			forward, _ := received.(syscall.Signal)
			if interrupt != nil {
				forward = syscall.SIGKILL
			}
			interrupt = received
			fmt.Fprintf(log, "received %s, passing %s on\n", received, forward)
			_ = syscall.Kill(-child.Process.Pid, forward) // it may be gone already
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case interrupt != nil:
				return exitCode(interrupt), fmt.Errorf("interrupted by %s", interrupt)
			case errors.As(err, &exit):
				return max(1, exit.ExitCode()), nil
			case err != nil:
				return 1, fmt.Errorf("run command: %w", err)
			default:
				return 0, nil
			}
		}
	}
}

// exitCode is the shell's convention for a process that a signal ended.
func exitCode(received os.Signal) int {
	number, _ := received.(syscall.Signal)
	return 128 + int(number)
}
