package models

import (
	"database/sql/driver"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Outcome is how an attempt ended.
type Outcome string

// The outcomes of an attempt. Only SUCCESS ends a delivery well.
const (
	OutcomeSuccess       Outcome = "SUCCESS"
	OutcomeHTTPError     Outcome = "HTTP_ERROR"
	OutcomeTimeout       Outcome = "TIMEOUT"
	OutcomeDNSError      Outcome = "DNS_ERROR"
	OutcomeConnectError  Outcome = "CONNECT_ERROR"
	OutcomeTLSError      Outcome = "TLS_ERROR"
	OutcomeBlockedTarget Outcome = "BLOCKED_TARGET"
	OutcomeResponseError Outcome = "RESPONSE_ERROR"
	OutcomeAbandoned     Outcome = "ABANDONED"
)

// Attempt is one HTTP request of a delivery. The request's body is not kept with it: every
// attempt of a delivery sends the same bytes, which the delivery and its event tell.
type Attempt struct {
	DeliveryID        string `gorm:"primaryKey"`
	Number            int    `gorm:"primaryKey"` // from 1
	Tenant            string
	Token             string // the claim that it ran under
	Trigger           Trigger
	StartedAt         time.Time
	EndedAt           *time.Time
	Outcome           *Outcome
	Error             *string
	RemoteAddress     *string
	RequestURL        string
	RequestHeaders    Headers // secrets masked before they come here
	ResponseStatus    *int
	ResponseHeaders   Headers
	ResponseBody      *string
	ResponseTruncated bool
	// Phases, in microseconds; nil where the phase did not happen (a reused connection has no
	// DNS, connect or TLS phase).
	TotalMicros     *int64
	DNSMicros       *int64
	ConnectMicros   *int64
	TLSMicros       *int64
	FirstByteMicros *int64
}

// IsNode marks Attempt as reachable through node(id:).
func (Attempt) IsNode() {}

// ID is the attempt's public id, made from its key.
func (a Attempt) ID() string { return AttemptID(a.DeliveryID, a.Number) }

// AttemptID names attempt number of a delivery: att_<the delivery's characters>_<number>.
func AttemptID(deliveryID string, number int) string {
	return PrefixAttempt + strings.TrimPrefix(deliveryID, PrefixDelivery) + "_" + strconv.Itoa(number)
}

// ParseAttemptID takes AttemptID apart; ok is false where id is not one.
func ParseAttemptID(id string) (deliveryID string, number int, ok bool) {
	rest, found := strings.CutPrefix(id, PrefixAttempt)
	if !found {
		return "", 0, false
	}
	key, digits, found := strings.Cut(rest, "_")
	deliveryID = PrefixDelivery + key
	number, err := strconv.Atoi(digits)
	if !found || err != nil || number < 1 || number > math.MaxInt32 || strconv.Itoa(number) != digits || !ValidID(PrefixDelivery, deliveryID) {
		return "", 0, false
	}
	return deliveryID, number, true
}

// Header is one header as history shows it.
type Header struct {
	Name   string `json:"n"`
	Value  string `json:"v"`
	Masked bool   `json:"m,omitempty"`
}

// Headers is a list of headers, stored as JSON.
type Headers []Header

// Value writes the list as JSON.
func (h Headers) Value() (driver.Value, error) { return jsonValue([]Header(h)) }

// Scan reads what Value wrote; SQL's NULL is an empty list.
func (h *Headers) Scan(src any) error {
	if src == nil {
		*h = nil
		return nil
	}
	if err := jsonScan(src, (*[]Header)(h)); err != nil {
		return fmt.Errorf("scan headers: %w", err)
	}
	return nil
}
