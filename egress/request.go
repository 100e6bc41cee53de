package egress

import (
	"strconv"
	"strings"
	"time"

	"github.com/intervengine/webhooks/signing"
)

// Request is what one attempt is made of. Its bytes are fixed before it is sent:
// what it shows is what leaves.
type Request struct {
	ID        string    // webhook-id: the event's id, the same on every attempt
	Target    Target    // required
	Headers   []Header  // custom ones, each of which ValidateHeader accepts
	Body      []byte    // JSON, sent as it is; not changed while the attempt runs
	Timestamp time.Time // of this attempt, to the second
	Signer    *signing.Signer
	Timeout   time.Duration // over everything; 0 means 15 s
	Version   string        // of this server, in the user agent; "" leaves it out
	// StartBy is until when the first byte may be written on a connection that was kept; on one that had to
	// be made it may be within writeWithin of its being there, and within Timeout. Later nothing is sent, and the result is an
	// OwnFault: this process was stopped, or had no time, and whoever asked may not want it any more. Zero:
	// whenever. HTTP/2, whose connections many requests share, does not look.
	StartBy time.Time
	// Written and Answered, where set, are called once each at most, while the attempt runs or just after
	// it: when the whole request has been handed to the connection or its buffer, which is then emptied, and
	// when the first byte of its answer is there. They must not block.
	Written, Answered func()
}

// fixedHeaders is how many headers every request has.
const fixedHeaders = 5

const userAgent = "Intervengine-Webhooks"

// fields returns every header that the request sets, custom ones last.
func (r Request) fields() []Header {
	agent := userAgent
	if r.Version != "" {
		agent += "/" + r.Version
	}
	fields := make([]Header, 0, fixedHeaders+len(r.Headers))
	fields = append(
		fields,
		Header{"content-type", "application/json"},
		Header{"user-agent", agent},
		Header{signing.HeaderID, r.ID},
		Header{signing.HeaderTimestamp, strconv.FormatInt(r.Timestamp.Unix(), 10)},
		Header{signing.HeaderSignature, r.Signer.Sign(r.ID, r.Timestamp, r.Body)},
	)
	return append(fields, r.Headers...)
}

// ShownHeaders returns the request's headers as history and previews show them,
// in the order in which they are set, sensitive values masked.
func (r Request) ShownHeaders() []ShownHeader {
	fields := r.fields()
	shown := make([]ShownHeader, len(fields))
	for i, field := range fields {
		shown[i] = show(field)
	}
	return shown
}

// Curl returns a command for a POSIX shell that sends the same request, except
// for the values that are masked.
func (r Request) Curl() string {
	var command strings.Builder
	// Without these curl would read brackets as ranges and tidy up the path.
	command.WriteString("curl --globoff --path-as-is --request POST " + quote(r.Target.String()))
	for _, field := range r.ShownHeaders() {
		header := field.Name + ": " + field.Value
		if field.Value == "" {
			header = field.Name + ";" // curl's way to send a header without a value
		}
		command.WriteString(" \\\n  --header " + quote(header))
	}
	command.WriteString(" \\\n  --data-raw " + quote(string(r.Body)))
	return command.String()
}

// quote makes one word of text for a POSIX shell, whatever it holds.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
