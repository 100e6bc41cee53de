package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	// probeEvery is how often the disk is asked while somebody else is measured.
	probeEvery = 20 * time.Millisecond
	// stallOver is from when on the disk counts as stalled: some hundred times what it usually takes.
	stallOver = 20 * time.Millisecond
)

// span is a stretch of time.
type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return s.from.Before(o.to) && o.from.Before(s.to) }

// diskWatch syncs a few bytes of its own, again and again. Where many write to one disk it stalls now and then
// for tenths of a second, for everybody at once; the watch tells that from what a server is to blame for.
type diskWatch struct {
	file   *os.File
	end    chan struct{}
	ended  chan error
	stalls []span
}

func (b *bench) watchDisk() (*diskWatch, error) {
	file, err := os.CreateTemp(b.dir, "disk-")
	if err != nil {
		return nil, fmt.Errorf("watch the disk: %w", err)
	}
	w := &diskWatch{file: file, end: make(chan struct{}), ended: make(chan error, 1)}
	go func() { w.ended <- w.run() }()
	return w, nil
}

func (w *diskWatch) run() error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.end:
			return nil
		case <-tick.C:
		}
		began := time.Now()
		if _, err := w.file.WriteAt(make([]byte, 8<<10), 0); err != nil {
			return err
		}
		if err := w.file.Sync(); err != nil {
			return err
		}
		if time.Since(began) > stallOver {
			w.stalls = append(w.stalls, span{began.Round(0), time.Now().Round(0)})
		}
	}
}

// stop gives the stalls.
func (w *diskWatch) stop() ([]span, error) {
	close(w.end)
	err := <-w.ended
	_ = w.file.Close()
	if err != nil {
		return nil, fmt.Errorf("watch the disk: %w", err)
	}
	return w.stalls, nil
}

// outside gives the lengths, sorted, of those that were not under way during a stall.
func outside(spans, stalls []span) []time.Duration {
	var left []time.Duration
	for _, s := range spans {
		if !slices.ContainsFunc(stalls, s.overlaps) {
			left = append(left, s.to.Sub(s.from))
		}
	}
	slices.Sort(left)
	return left
}
