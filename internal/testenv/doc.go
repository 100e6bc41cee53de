// Package testenv gives tests real servers, and faults on the way to them: databases and key spaces
// of their own in the servers of the run, whole Postgres and Redis processes that a test may stop,
// kill and pause, and a TCP proxy that delays, cuts and swallows.
//
// It needs the variables that the command internal/testenv/cmd/testenv sets, which `make test` uses.
// Without them a test fails and says so; it is never skipped. All that a test gets here is taken
// back when the test ends. Only tests import this package.
package testenv
