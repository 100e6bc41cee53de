package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	startLimit = time.Minute      // crash recovery on a busy machine included
	stopLimit  = 30 * time.Second // after which a stop becomes a kill
)

// ErrNotRunning is returned by calls that need a running server.
var ErrNotRunning = errors.New("server is not running")

// A Server is a private Postgres or Redis on 127.0.0.1. Its address and password stay the same over
// Stop, Kill and Restart; so does its data, as far as the program keeps it. All methods may be
// called from several goroutines; they take turns.
type Server struct {
	url  string
	dir  string
	ping func(context.Context) error

	mu         sync.Mutex
	unit       unit
	stopSignal syscall.Signal
	ended      <-chan struct{}
	paused     bool
}

// URL is how a client connects, password included. It stays the same for the server's whole life.
func (s *Server) URL() string { return s.url }

// Addr is the host and port of URL, fit for a log.
func (s *Server) Addr() string {
	parsed, err := url.Parse(s.url)
	if err != nil { // the URL is made here
		return ""
	}
	return parsed.Host
}

// Restart starts the server again on the same address and data, after stopping it if it runs, and
// returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(ctx); err != nil {
		return err
	}
	return s.launch(ctx)
}

// Stop ends the server in its orderly way and returns when it is gone. What does not end within
// 30 s is killed and reported. Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(ctx)
}

// Kill ends the server with SIGKILL, all its processes at once, as a power cut would, and returns
// when they are gone. Killing a stopped server does nothing.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kill()
}

// Pause stops the server with SIGSTOP, all its processes: it accepts connections and never answers.
func (s *Server) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return ErrNotRunning
	}
	if s.paused {
		return nil
	}
	s.paused = true
	return s.unit.signal(syscall.SIGSTOP)
}

// Resume lets a paused server go on. Resuming one that runs does nothing.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resume()
}

// Log returns the end of what the server printed.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unit.log()
}

// Close kills the server and deletes all that it left. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.kill()
	s.unit.remove()
	return errors.Join(err, os.RemoveAll(s.dir))
}

// launch starts the program and waits until it answers. The caller holds the lock or is alone.
func (s *Server) launch(ctx context.Context) error {
	ended, err := s.unit.start()
	if err != nil {
		return err
	}
	s.ended, s.paused = ended, false
	waiting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		select {
		case <-ended: // waiting on would only hide why
			giveUp()
		case <-waiting.Done():
		}
	}()
	err = poll(waiting, startLimit, func() error {
		attempt, cancel := context.WithTimeout(waiting, 5*time.Second)
		defer cancel()
		// Clients log each refusal, which at this point is no news.
		var dialer net.Dialer
		connection, err := dialer.DialContext(attempt, "tcp", s.Addr())
		if err != nil {
			return err
		}
		_ = connection.Close() // its answer was all
		return s.ping(attempt)
	})
	if err != nil {
		return fmt.Errorf("wait for the server to answer: %w\n%s", err, s.unit.log())
	}
	return nil
}

func (s *Server) running() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

func (s *Server) resume() error {
	if !s.paused || !s.running() {
		return nil
	}
	s.paused = false
	return s.unit.signal(syscall.SIGCONT)
}

func (s *Server) stop(ctx context.Context) error {
	if !s.running() {
		return nil
	}
	if err := s.resume(); err != nil {
		return err
	}
	if err := s.unit.signal(s.stopSignal); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop server: %w", ctx.Err()), s.kill())
	}
}

func (s *Server) kill() error {
	if !s.running() {
		return nil
	}
	s.paused = false
	if err := s.unit.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-s.ended
	return nil
}
