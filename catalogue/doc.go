// Package catalogue knows the event types and everything that is compiled against them: JSON
// Schema, the GraphQL schema derived from it, filters in CEL, payload queries, and from these the
// verdict whether an event goes to a webhook and with what body.
//
// It hides cel-go, gqlparser and the JSON Schema library. A Catalogue is an immutable snapshot: it
// does no I/O, fetches nothing, and is safe for concurrent use; whoever holds one gets the same
// answers for ever. A changed event type makes a new Catalogue (see Catalogue.With).
//
// Invariants:
//   - Data is read from the text that it came as. No number and no string is ever re-encoded on
//     its way to a receiver.
//   - What callers send (schemas, filters, documents, data) is bounded in size, depth, cost and
//     time, and never makes the package panic.
//   - A filter or payload query that cannot be compiled or fails is FilterError with its reason:
//     never a match, and never nothing.
//
// Problems come without a path; the caller knows which argument it was.
package catalogue
