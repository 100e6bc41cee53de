package cli

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// standing is a writer that can be made to stand still.
type standing struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *standing) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(line)
}

func (s *standing) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.SplitAfter(strings.TrimSuffix(s.b.String(), "\n"), "\n")
}

func plain(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }

// What fits is written in its order once somebody reads again; what does not is counted at once, and told.
func TestLogOutput_NobodyReads(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"many lines": "a line\n", "long lines": strings.Repeat("long ", maxLogBytes/100) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &standing{}
			o := newLogOutput(w, plain)
			w.mu.Lock()
			const more = 2 * maxLogLines
			text := make([]byte, 0, 2*len(line))
			for n := range more {
				text = append(fmt.Appendf(text[:0], "%d ", n), line...)
				wrote, err := o.Write(text) // who writes uses its bytes again
				assert.Equal(t, len(text), wrote)
				assert.NoError(t, err)
			}
			dropped := o.Dropped()
			assert.Positive(t, dropped)
			assert.Less(t, dropped, uint64(more))
			w.mu.Unlock()
			o.flush()
			kept := w.lines()
			assert.Contains(t, kept[len(kept)-1], fmt.Sprintf("lines=%d", dropped))
			kept = kept[:len(kept)-1]
			assert.Len(t, kept, more-int(dropped))
			for n, got := range kept[:len(kept)-1] { // the last one came when the first one was taken out
				assert.Equal(t, fmt.Sprintf("%d ", n)+line, got)
			}
			_, _ = o.Write([]byte("goes on\n"))
			o.flush()
			assert.Contains(t, w.lines()[len(w.lines())-1], "goes on")
		})
	}
}

// A process that ends does not wait for ever for who reads its log.
func TestLogOutput_FlushIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		o := newLogOutput(write, plain)
		for range 2 * maxLogLines {
			_, _ = o.Write([]byte("a line\n"))
		}
		began := time.Now()
		o.flush()
		assert.Equal(t, flushWithin, time.Since(began))
		go func() { _, _ = io.Copy(io.Discard, read) }()
		o.flush()
		assert.Equal(t, flushWithin, time.Since(began), "somebody reads")
		close(o.lines)
		_ = write.Close()
	})
}
