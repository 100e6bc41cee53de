// Package services finds, starts and ends the Postgres and Redis servers that the tests run against.
//
// It hides where a server comes from (installed binaries, a container, the system's packages) behind
// a Source, and how it is run behind a Server that can be stopped, killed, paused and restarted. The
// command internal/testenv/cmd/testenv uses it for the pair that one test run shares, the package
// internal/testenv for the servers that one test needs for itself.
//
// Invariants: a server listens on 127.0.0.1 alone and asks for a random password; its files live in
// one scratch directory that Close deletes; it dies with the process that started it (on Linux even
// when that process is killed). Nothing here is imported by production code.
package services
