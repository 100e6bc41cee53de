package models

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ProblemCode classes what a caller can put right. The values are the API's.
type ProblemCode string

// The codes of problems.
const (
	CodeRequired            ProblemCode = "REQUIRED"
	CodeInvalid             ProblemCode = "INVALID"
	CodeTooLong             ProblemCode = "TOO_LONG"
	CodeTooLarge            ProblemCode = "TOO_LARGE"
	CodeNotFound            ProblemCode = "NOT_FOUND"
	CodeConflict            ProblemCode = "CONFLICT"
	CodeForbiddenTarget     ProblemCode = "FORBIDDEN_TARGET"
	CodeUnknownEventType    ProblemCode = "UNKNOWN_EVENT_TYPE"
	CodeInvalidFilter       ProblemCode = "INVALID_FILTER"
	CodeInvalidPayloadQuery ProblemCode = "INVALID_PAYLOAD_QUERY"
	CodeInvalidSchema       ProblemCode = "INVALID_SCHEMA"
	CodeSchemaViolation     ProblemCode = "SCHEMA_VIOLATION"
	CodeIdempotencyMismatch ProblemCode = "IDEMPOTENCY_MISMATCH"
	CodeNotAllowedNow       ProblemCode = "NOT_ALLOWED_NOW"
)

// Location is a place in a text that a caller sent: line and column from 1, columns in
// characters.
type Location struct {
	Line   int
	Column int
}

// Problem is one thing that a caller can put right.
type Problem struct {
	Code          ProblemCode
	Message       string   // what was wrong and what is allowed, for a person
	Path          []string // into the arguments, e.g. input, targetUrl
	ConflictingID *string  // CONFLICT: the object that is in the way
	Pointer       *string  // SCHEMA_VIOLATION: a JSON pointer into data
	Locations     []Location
}

// Problems is all that is wrong with one call, as an error. Nothing was changed.
type Problems []Problem //nolint:errname // the contract's word: many problems, one error

func (p Problems) Error() string {
	parts := make([]string, len(p))
	for i, x := range p {
		parts[i] = strings.Join(x.Path, ".") + ": " + x.Message
	}
	return strings.Join(parts, "; ")
}

// Add appends a problem at path.
func (p *Problems) Add(code ProblemCode, path []string, format string, args ...any) {
	*p = append(*p, Problem{Code: code, Path: path, Message: fmt.Sprintf(format, args...)})
}

// Err is p as an error, nil where there is no problem.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// ErrNotFound says that the object does not exist, or belongs to another tenant: callers
// cannot tell the two apart.
var ErrNotFound = errors.New("not found")

// ErrVersion says that expectedVersion is no longer current.
var ErrVersion = errors.New("version is no longer current")

// ErrInvalidCursor says that a cursor is malformed or belongs to another list.
var ErrInvalidCursor = errors.New("cursor is not one of this list")

// ErrIdempotencyMismatch says that an idempotency key was used before with another body.
var ErrIdempotencyMismatch = errors.New("idempotency key was used with another event")

// ConflictError says that a unique value is taken.
type ConflictError struct {
	ID string // the object that has it
}

func (e *ConflictError) Error() string { return "conflicts with " + e.ID }

// UnavailableError says that the database could not be reached, was full, read-only or too slow.
// Nothing was written, unless OutcomeUnknown says that nobody can tell.
type UnavailableError struct {
	Err            error
	OutcomeUnknown bool
}

func (e *UnavailableError) Error() string { return "database unavailable: " + e.Err.Error() }

// Unwrap gives the database's own error.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Refused reports whether the database is there and does not let this program in: the login is wrong, or there
// is no such database. It does not pass by itself.
func (e *UnavailableError) Refused() bool {
	pg, ok := errors.AsType[*pgconn.PgError](e.Err)
	return ok && (strings.HasPrefix(pg.Code, "28") || pg.Code == "3D000")
}
