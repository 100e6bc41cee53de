// Package models is the domain and its storage: the types that a caller, a worker and a page of
// history share, the states that they move through, and the only SQL in the project.
//
// It hides two databases behind one set of methods: Postgres and an embedded SQLite file. What
// is due, what was claimed and what ended is decided here, in transactions; everything else
// (queue, caches, feeds) may be lost and is rebuilt from what this package says.
//
// Invariants:
//   - an event and all its deliveries become visible in one commit, or not at all;
//   - a delivery is claimed by at most one token at a time, and only while it is due, open and
//     its webhook is active;
//   - recording is fenced by that token: a worker that overslept its claim changes nothing but
//     its own attempt's row, except that a 2xx that really happened is never denied;
//   - config changes and event commits are totally ordered (the config epoch), so an answered
//     change is seen by every later event.
//
// Store is unscoped, for workers, sweeps and commands. Store.Tenant narrows it to what one
// tenant may see; callers' requests go through that alone.
package models

import "time"

// DefaultTenant is the tenant that a platform key writes to where it names none.
const DefaultTenant = "default"

// Precision is the resolution of stored times. Times are cut to it, in UTC, before they are
// stored or compared, so that what is read back equals what was written on both databases.
const Precision = time.Microsecond

// Instant brings t to the form in which it is stored: UTC, cut to Precision.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(Precision) }
