package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// lifecycle starts the parts of a process in order and stops them in the opposite order, each
// once, all within the context that Stop is given.
type lifecycle struct {
	logger *slog.Logger
	fault  func(error) // told of a duty that ended before it was stopped

	mu    sync.Mutex
	stops []stopper
}

type stopper struct {
	name string
	stop func(context.Context) error
}

// onStop adds what must happen at a stop, before everything that was added earlier.
func (l *lifecycle) onStop(name string, stop func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, stopper{name, stop})
}

// run starts a background duty that ends when its context does.
func (l *lifecycle) run(name string, duty func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := duty(ctx)
		done <- err
		if ctx.Err() == nil {
			l.fault(fmt.Errorf("%s ended: %w", name, err))
		}
	}()
	l.onStop(name, func(stopCtx context.Context) error {
		cancel()
		select {
		case err := <-done:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-stopCtx.Done():
			return stopCtx.Err()
		}
	})
}

// stop ends everything, last in first out. A part that fails or runs out of time is named, and
// the others are still stopped.
func (l *lifecycle) stop(ctx context.Context) error {
	l.mu.Lock()
	stops := l.stops
	l.stops = nil
	l.mu.Unlock()
	var all error
	for _, stop := range slices.Backward(stops) {
		if err := stop.stop(ctx); err != nil {
			l.logger.WarnContext(ctx, "part did not stop cleanly", "part", stop.name, "error", err)
			all = errors.Join(all, fmt.Errorf("stop %s: %w", stop.name, err))
		}
	}
	return all
}
