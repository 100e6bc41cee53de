package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
	logKept    = 16 << 10
)

// process is a program that was started here, and ends when this one does.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   *tail
	ended chan struct{}
}

// startProcess runs the program with exactly these variables. find is given each line of its output
// until it knows the program's address; startProcess returns then.
func startProcess(ctx context.Context, name, program string, args, env []string, find func(line string) (addr string)) (*process, string, error) {
	cmd := exec.Command(program, args...) //nolint:noctx // stop ends it, in an orderly way
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir()}, env...)
	cmd.SysProcAttr = dieWithParent()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("make pipe: %w", err)
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	p := &process{name: name, cmd: cmd, log: &tail{}, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel's death note follows the thread that forked, not the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_ = writer.Close() // the program has its own
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		_ = reader.Close()
		return nil, "", fmt.Errorf("start %s: %w", name, err)
	}
	found := make(chan string, 1)
	go func() {
		defer func() { _ = reader.Close() }()
		lines := bufio.NewReader(reader)
		var known bool
		for {
			line, err := lines.ReadString('\n')
			p.log.add(line)
			if !known {
				if addr := find(line); addr != "" {
					known = true
					found <- addr
				}
			}
			if err != nil {
				return
			}
		}
	}()
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	select {
	case addr := <-found:
		return p, addr, nil
	case <-p.ended:
		err = errors.New("ended at once")
	case <-timer.C:
		err = errors.New("gave no address in time")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, "", errors.Join(fmt.Errorf("start %s: %w\n%s", name, err, p.log), p.stop())
}

// stop ends the process with SIGTERM, and with SIGKILL when that takes too long. It may be called
// again.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("stop %s: killed after %s\n%s", p.name, stopLimit, p.log)
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// tail keeps the end of what a program printed.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, line...)
	if over := len(t.text) - logKept; over > 0 {
		t.text = bytes.Clone(t.text[over:])
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// firstLine takes a program's first line as its address.
func firstLine(line string) string { return string(bytes.TrimSpace([]byte(line))) }

// build compiles a package of this module.
func build(ctx context.Context, log io.Writer, pkg, into string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", into, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}
