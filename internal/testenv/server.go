package testenv

import (
	"context"
	"testing"
	"time"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

// serverLimit bounds a start, crash recovery included, and a stop.
const serverLimit = 90 * time.Second

// A Server is a Postgres or Redis that belongs to one test, which may do anything to it. Its URL and
// its data stay the same whatever happens to it. A call that fails fails the test, from any
// goroutine; the calls of several take turns.
type Server struct {
	t      testing.TB
	server *services.Server
}

// PostgresServer starts an empty Postgres that ends with the test. Settings are name=value pairs of
// postgresql.conf, such as "max_connections=20". Commits survive Kill, as in production.
func PostgresServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, services.PostgresSourceEnv, services.StartPostgres, settings)
}

// RedisServer starts an empty Redis that ends with the test. Arguments are options of its command
// line, such as "--maxmemory", "8mb". It forgets everything on Stop and Kill unless they say otherwise.
func RedisServer(t testing.TB, arguments ...string) *Server {
	t.Helper()
	return start(t, services.RedisSourceEnv, services.StartRedis, arguments)
}

type startFunc func(context.Context, services.Source, ...string) (*services.Server, error)

func start(t testing.TB, env string, start startFunc, arguments []string) *Server {
	t.Helper()
	source, err := services.ParseSource(variable(t, env))
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverLimit)
	defer cancel()
	server, err := start(ctx, source, arguments...)
	if err != nil {
		t.Fatalf("start server: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", server.Addr(), server.Log())
		}
		if err := server.Close(); err != nil {
			t.Errorf("close server: %v", err)
		}
	})
	return &Server{t: t, server: server}
}

// URL is how a client connects, as owner.
func (s *Server) URL() string { return s.server.URL() }

// Addr is the host and port of URL.
func (s *Server) Addr() string { return s.server.Addr() }

// Stop ends the server in its orderly way and returns when it is gone.
func (s *Server) Stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverLimit)
	defer cancel()
	s.check("stop", s.server.Stop(ctx))
}

// Kill ends all the server's processes with SIGKILL and returns when they are gone.
func (s *Server) Kill() {
	s.t.Helper()
	s.check("kill", s.server.Kill())
}

// Restart starts the server again, after stopping it if it runs, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverLimit)
	defer cancel()
	s.check("restart", s.server.Restart(ctx))
}

// Pause freezes all the server's processes with SIGSTOP: it accepts connections and never answers.
func (s *Server) Pause() {
	s.t.Helper()
	s.check("pause", s.server.Pause())
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.t.Helper()
	s.check("resume", s.server.Resume())
}

func (s *Server) check(action string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Errorf("%s server %s: %v", action, s.server.Addr(), err)
	}
}
