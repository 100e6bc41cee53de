package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// outlet is what a process writes its output to, read until it is stopped.
type outlet struct {
	reader, writer *os.File
	p              *process
	stopped        atomic.Bool
}

// startQuietly starts the program with its output going to an outlet.
func startQuietly(t *testing.T, args string, env map[string]string) (*process, *outlet) {
	t.Helper()
	o := &outlet{}
	var err error
	o.reader, o.writer, err = os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = o.writer.Close() })
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, args)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = o.writer, o.writer
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	p := &process{t: t, cmd: cmd, stdout: &lines{}, stderr: &lines{}, done: make(chan struct{})}
	o.p = p
	go o.read()
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		_ = o.reader.Close()
		if t.Failed() {
			t.Logf("%s\n%s", args, p.stderr.tail())
		}
	})
	p.url()
	return p, o
}

func (o *outlet) read() {
	buffer := make([]byte, 4096)
	for !o.stopped.Load() {
		n, err := o.reader.Read(buffer)
		if err != nil {
			return
		}
		_, _ = o.p.stderr.Write(bytes.Trim(buffer[:n], "\x00"))
	}
}

// fill stops the reader and fills what is between.
func (o *outlet) fill(t *testing.T) {
	t.Helper()
	o.stopped.Store(true)
	var blocks atomic.Int32
	go func() {
		block := make([]byte, 4096)
		for o.stopped.Load() {
			if _, err := o.writer.Write(block); err != nil {
				return // the reader's end was closed with the test
			}
			blocks.Add(1)
		}
	}()
	apptest.Eventually(t, func() (bool, string) { return blocks.Load() >= 14, "the pipe is not full" })
}

// goOn reads again.
func (o *outlet) goOn() {
	o.stopped.Store(false)
	go o.read()
}

// Whoever reads the server's output stands still, with the pipe full: calls are answered and deliveries go on. The log
// goes on where it was, or, in the long form, where the server had more to say than it keeps, tells how much is missing.
func TestFault48_OutputToAStoppedReader(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, workers: 1})
		for _, p := range append(slices.Clone(w.apis), w.workers...) {
			p.stop()
		}
		env := maps.Clone(w.env)
		env["LOG_LEVEL"] = "debug"
		env["LISTEN_ADDR"] = w.api().URL[len("http://"):]
		p, output := startQuietly(t, "serve", env)
		w.apis, w.clients, w.workers = []*process{p}, w.clients[:1], nil
		output.fill(t)

		noise := create(t, w.api(), map[string]any{
			"name": "noise", "targetUrl": receivertest.New(t).URL(), "eventTypes": []string{"participant.created"},
		}).Webhook.ID
		changes := either(10, 700)
		for range changes {
			change(t, w.api(), "pauseWebhook", noise)
			change(t, w.api(), "resumeWebhook", noise)
		}
		l := w.emit(40)
		w.accept(either(200, 5000))
		w.pass(either(2*time.Second, 60*time.Second))
		l.end(t)
		w.settle(either(60*time.Second, 5*time.Minute))
		_, failed, _ := w.counts(time.Time{})
		require.Empty(t, failed)
		require.False(t, p.ended())

		dropped := int(metric(t, w.api(), "webhooks_log_lines_dropped_total"))
		require.Equal(t, either(false, true), dropped > 0)
		output.goOn()
		apptest.Eventually(t, func() (bool, string) {
			told := strings.Count(p.stderr.String(), noise)
			if dropped > 0 {
				return strings.Contains(p.stderr.String(), fmt.Sprintf(`"lines":%d}`, dropped)), fmt.Sprint(dropped, " lines were dropped, and it does not say so")
			}
			return told == 2*changes, fmt.Sprintf("%d of %d changes are in the log", told, 2*changes)
		})
	})
}
