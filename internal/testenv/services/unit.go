package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A unit is one run of a server's program after another: a process or a container.
type unit interface {
	// start launches the program and returns a channel that closes when it has ended.
	start() (<-chan struct{}, error)
	// signal sends KILL, STOP, CONT or the program's own stop signal to it and its children.
	// A program that has ended is no error.
	signal(sig syscall.Signal) error
	// log returns the end of what the program printed.
	log() string
	// remove deletes what is left of the ended program.
	remove()
}

// process is a unit of a local binary.
type process struct {
	path       string
	args       []string
	dir        string
	logPath    string
	credential *syscall.Credential
	deathNote  syscall.Signal // what the kernel sends when the starter dies
	pidFile    string         // deleted before each start, since its process is known to be gone

	command *exec.Cmd
	ended   chan struct{}
}

var _ unit = (*process)(nil)

func (p *process) start() (<-chan struct{}, error) {
	if p.pidFile != "" {
		if err := os.Remove(p.pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove stale pid file: %w", err)
		}
	}
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	defer logFile.Close()

	command := exec.Command(p.path, p.args...) //nolint:noctx // it outlives the call; signal ends it
	command.Dir = p.dir
	command.Stdout, command.Stderr = logFile, logFile
	// Postgres takes its messages' language from here, and the tail of the log is read below.
	command.Env = append(os.Environ(), "LC_ALL=C")
	command.SysProcAttr = ownGroup(p.deathNote)
	command.SysProcAttr.Credential = p.credential

	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel's death note follows the thread that forked, not the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = command.Wait() // how it ended is in its log
		close(ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, err)
	}
	p.command, p.ended = command, ended
	return ended, nil
}

func (p *process) signal(sig syscall.Signal) error {
	if p.command == nil {
		return nil
	}
	select {
	case <-p.ended:
		return nil
	default:
	}
	main := p.command.Process.Pid
	if sig != syscall.SIGKILL && sig != syscall.SIGSTOP && sig != syscall.SIGCONT {
		return ignoreGone(p.command.Process.Signal(sig))
	}
	// Postgres' children lead process groups of their own. The parent stands still first, so that
	// none is born between the listing and the signal.
	if err := ignoreGone(syscall.Kill(main, syscall.SIGSTOP)); err != nil {
		return fmt.Errorf("signal %d: %w", main, err)
	}
	children := descendants(main)
	errs := []error{}
	for _, pid := range append([]int{main}, children...) {
		errs = append(errs, ignoreGone(syscall.Kill(pid, sig)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("signal server: %w", err)
	}
	if sig != syscall.SIGKILL {
		return nil
	}
	<-p.ended
	// A child that still holds the shared memory would refuse the next start.
	return poll(context.Background(), 30*time.Second, func() error {
		for _, pid := range children {
			if alive(pid) {
				return fmt.Errorf("child %d of the killed server is still there", pid)
			}
		}
		return nil
	})
}

func (p *process) log() string {
	text, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), 12)
}

func (p *process) remove() {}

// container is a unit of a container engine.
type container struct {
	engine  string
	name    string
	options []string
	image   string
	args    []string

	created bool
}

var _ unit = (*container)(nil)

func (c *container) start() (<-chan struct{}, error) {
	var err error
	if c.created {
		err = c.run("start", c.name)
	} else {
		args := append([]string{"run", "--detach", "--name", c.name}, c.options...)
		c.created = true
		err = c.run(append(append(args, c.image), c.args...)...)
	}
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.run("wait", c.name) // returns when the container has ended, however it did
	}()
	return ended, nil
}

func (c *container) signal(sig syscall.Signal) error {
	switch sig {
	case syscall.SIGSTOP:
		return c.run("pause", c.name)
	case syscall.SIGCONT:
		return c.run("unpause", c.name)
	case syscall.SIGKILL:
		_ = c.run("unpause", c.name) // engines differ over killing what is paused; an error means it is not
		fallthrough
	default:
		err := c.run("kill", "--signal", strconv.Itoa(int(sig)), c.name)
		if err != nil && strings.Contains(err.Error(), "not running") {
			return nil
		}
		return err
	}
}

func (c *container) log() string {
	output, err := exec.Command(c.engine, "logs", "--tail", "12", c.name).CombinedOutput() //nolint:noctx // short
	if err != nil {
		return err.Error()
	}
	return string(output)
}

func (c *container) remove() {
	_ = c.run("rm", "--force", "--volumes", c.name) // nothing is left to do about it
}

func (c *container) run(args ...string) error {
	var output bytes.Buffer
	command := exec.Command(c.engine, args...) //nolint:noctx // wait lives as long as the container
	command.Stderr = &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", c.engine, args[0], err, lastLines(output.String(), 3))
	}
	return nil
}

// poll calls check every few milliseconds until it returns nil, and returns its last error when the
// limit or ctx ends first.
func poll(ctx context.Context, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", limit, err)
		case <-ticker.C:
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
