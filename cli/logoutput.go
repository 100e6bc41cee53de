package cli

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// maxLogBytes and maxLogLines bound what waits to be written.
	maxLogBytes = 1 << 20
	maxLogLines = 1024
	// flushWithin bounds how long a process that ends waits for who reads its log.
	flushWithin = time.Second
)

// logOutput hands lines to w without waiting for it: whoever reads the log may stand still, with the pipe full, and
// deliveries must not wait for that. What finds no room is dropped and counted, and the log says so when it goes on.
type logOutput struct {
	lines   chan logLine
	waiting atomic.Int64 // bytes
	dropped atomic.Uint64
	told    func(dropped uint64) // writes past the queue
}

// logLine is a line, or a flush.
type logLine struct {
	text    []byte
	flushed chan<- struct{}
}

// newLogOutput starts to write to w, for as long as the process runs. handler makes what tells of dropped lines.
func newLogOutput(w io.Writer, handler func(io.Writer) slog.Handler) *logOutput {
	o := &logOutput{lines: make(chan logLine, maxLogLines)}
	direct := slog.New(handler(w))
	o.told = func(dropped uint64) {
		direct.WarnContext(context.Background(), "log lines dropped: nobody read them", "lines", dropped)
	}
	go o.run(w)
	return o
}

func (o *logOutput) run(w io.Writer) {
	var told uint64
	for line := range o.lines {
		if len(line.text) > 0 {
			_, _ = w.Write(line.text) // there is nowhere to say that it failed
			o.waiting.Add(-int64(len(line.text)))
		}
		if dropped := o.dropped.Load(); dropped > told && (len(o.lines) == 0 || line.flushed != nil) {
			o.told(dropped - told)
			told = dropped
		}
		if line.flushed != nil {
			close(line.flushed)
		}
	}
}

// Write takes a line, which it copies. It never fails and never blocks.
func (o *logOutput) Write(line []byte) (int, error) {
	if o.waiting.Add(int64(len(line))) > maxLogBytes {
		o.drop(line)
		return len(line), nil
	}
	select {
	case o.lines <- logLine{text: append([]byte(nil), line...)}:
	default:
		o.drop(line)
	}
	return len(line), nil
}

func (o *logOutput) drop(line []byte) {
	o.waiting.Add(-int64(len(line)))
	o.dropped.Add(1)
}

// Dropped is how many lines were dropped so far.
func (o *logOutput) Dropped() uint64 { return o.dropped.Load() }

// flush waits until what was written before is out, or flushWithin is over.
func (o *logOutput) flush() {
	flushed := make(chan struct{})
	timer := time.NewTimer(flushWithin)
	defer timer.Stop()
	select {
	case o.lines <- logLine{flushed: flushed}:
	case <-timer.C:
		return
	}
	select {
	case <-flushed:
	case <-timer.C:
	}
}
