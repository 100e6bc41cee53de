// Package queue reminds workers of deliveries that are due. It hides asynq and the loss of Redis
// behind a few names: Conn (connect and enqueue), Server (pick up) and Reconciler (repair).
//
// The database decides what is due; this package carries ids and nothing else. So a task may be
// lost, doubled, reordered or late without harm: the claim in the database refuses what is not
// due, and the Reconciler puts back what nobody claimed.
//
// Invariants:
//   - a task's payload is a list of delivery ids, never data, a URL or a secret;
//   - no caller waits for Redis: Enqueue gives up waiting after a few milliseconds, and at once
//     while Redis is known to be away;
//   - an enqueue that failed is repaired by the Reconciler, which is kicked when Redis returns or
//     has lost its memory;
//   - a handler's context ends only with the Server's stop, never because asynq lost its lease:
//     the claim is the fence, and a request that has left is worth its answer.
//
// In the flow it stands between intake and worker: intake commits, then enqueues; the Server
// hands bundles of ids to the worker; the worker schedules what failed.
package queue
