// Package egress is everything that leaves: it reads target URLs, guards which
// addresses may be dialled, builds and signs requests, sends each attempt as
// exactly one HTTP request, and reads what comes back within bounds.
//
// It hides the SSRF rules, the traps of net/http and the hostility of receivers.
// Its invariants:
//
//   - No packet goes to an address that the Guard refuses, whatever a name
//     resolves to at that moment; there are no proxies, redirects or cookies.
//   - One attempt is at most one request on the wire. A request is sent again only
//     when no byte of it was written, because the receiver closed an idle
//     connection first.
//   - Time, memory and bytes that one attempt costs are bounded, whatever the
//     receiver does.
//   - Do never returns a Go error: every way an attempt can go is an Outcome and a
//     sentence for a person, which hold no secret.
//
// In the flow it stands between worker, which decides when to attempt, and the
// receiver.
package egress
