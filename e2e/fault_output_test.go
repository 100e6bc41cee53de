package e2e

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// Whoever reads the server's output stands still, with the pipe full: deliveries go on.
func TestFault48_OutputToAStoppedReader(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, workers: 1})
		var reading atomic.Bool
		var output *os.File
		reading.Store(true)
		quiet := func(args string, env map[string]string) *process {
			reader, writer, err := os.Pipe()
			require.NoError(t, err)
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, args)
			cmd.Dir = t.TempDir()
			cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + os.Getenv("PATH")}
			for name, value := range env {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			cmd.Stdout, cmd.Stderr = writer, writer
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			require.NoError(t, cmd.Start())
			t.Cleanup(func() { _ = writer.Close() })
			output = writer
			p := &process{t: t, cmd: cmd, stdout: &lines{}, stderr: &lines{}, done: make(chan struct{})}
			go func() {
				buffer := make([]byte, 4096)
				for reading.Load() {
					n, err := reader.Read(buffer)
					if err != nil {
						return
					}
					_, _ = p.stderr.Write(buffer[:n])
				}
			}()
			go func() {
				p.err = cmd.Wait()
				close(p.done)
			}()
			t.Cleanup(func() {
				p.kill()
				_ = reader.Close()
				if t.Failed() {
					t.Logf("%s\n%s", args, p.stderr.tail())
				}
			})
			p.url()
			return p
		}
		env := maps.Clone(w.env)
		env["LOG_LEVEL"] = "debug"
		var p *process
		if stack == apptest.Embedded {
			w.apis[0].stop()
			env["LISTEN_ADDR"] = w.api().URL[len("http://"):]
			p = quiet("serve", env)
			w.apis[0] = p
		} else {
			w.workers[0].stop()
			env["LISTEN_ADDR"] = "127.0.0.1:0"
			p = quiet("worker", env)
			w.workers[0] = p
		}
		reading.Store(false)
		var blocks atomic.Int32
		go func() {
			block := make([]byte, 4096)
			for {
				if _, err := output.Write(block); err != nil {
					return // the reader's end was closed with the test
				}
				blocks.Add(1)
			}
		}()
		apptest.Eventually(t, func() (bool, string) { return blocks.Load() >= 14, "the pipe is not full" })
		l := w.emit(40)
		w.accept(either(200, 5000))
		w.pass(either(2*time.Second, 60*time.Second))
		l.end(t)
		w.settle(60 * time.Second)
		_, failed, _ := w.counts(time.Time{})
		require.Empty(t, failed)
		require.False(t, p.ended())
	})
}
