package models

import "time"

// DeliveryStatus is where a delivery stands on its way.
type DeliveryStatus string

// The states of a delivery. PENDING, RETRYING and HELD are open, the others have ended.
const (
	DeliveryPending   DeliveryStatus = "PENDING"
	DeliveryRetrying  DeliveryStatus = "RETRYING"
	DeliveryHeld      DeliveryStatus = "HELD"
	DeliverySucceeded DeliveryStatus = "SUCCEEDED"
	DeliveryFailed    DeliveryStatus = "FAILED"
	DeliveryCancelled DeliveryStatus = "CANCELLED"
	DeliverySkipped   DeliveryStatus = "SKIPPED"
)

// Open reports whether the delivery may still be attempted.
func (s DeliveryStatus) Open() bool {
	return s == DeliveryPending || s == DeliveryRetrying || s == DeliveryHeld
}

// DeliveryStatusReason says why a delivery is where it is, where the status alone does not.
type DeliveryStatusReason string

// Why a delivery waits or has ended.
const (
	ReasonScheduled         DeliveryStatusReason = "SCHEDULED"
	ReasonWebhookPaused     DeliveryStatusReason = "WEBHOOK_PAUSED"
	ReasonWebhookDisabled   DeliveryStatusReason = "WEBHOOK_DISABLED"
	ReasonWebhookDeleted    DeliveryStatusReason = "WEBHOOK_DELETED"
	ReasonCircuitOpen       DeliveryStatusReason = "CIRCUIT_OPEN"
	ReasonRateLimited       DeliveryStatusReason = "RATE_LIMITED"
	ReasonFilterError       DeliveryStatusReason = "FILTER_ERROR"
	ReasonRetriesExhausted  DeliveryStatusReason = "RETRIES_EXHAUSTED"
	ReasonGone              DeliveryStatusReason = "RECEIVER_GONE"
	ReasonAbortedByReceiver DeliveryStatusReason = "ABORTED_BY_RECEIVER"
	ReasonCancelledByUser   DeliveryStatusReason = "CANCELLED_BY_USER"
	ReasonEventErased       DeliveryStatusReason = "EVENT_ERASED"
)

// Trigger says what made a delivery or an attempt.
type Trigger string

// What makes deliveries and attempts.
const (
	TriggerAutomatic Trigger = "AUTOMATIC"
	TriggerManual    Trigger = "MANUAL"
	TriggerTest      Trigger = "TEST"
	TriggerReplay    Trigger = "REPLAY"
)

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID           string `gorm:"primaryKey"`
	Tenant       string
	EventID      string
	WebhookID    string
	EventType    string
	Revision     int64 // of the webhook, when it matched
	Status       DeliveryStatus
	StatusReason *DeliveryStatusReason
	StatusDetail *string // one sentence for a person
	Trigger      Trigger // what made the delivery
	// Body is data shaped by the payload query at match time; nil: the event's data as it is.
	// Retries and redeliveries send the same bytes because of it.
	Body *string
	// AttemptCount counts the attempts that were made, but for those that were made again because nothing
	// was heard of them in time: with automatic ones alone it is at most one more than the schedule's steps.
	AttemptCount int
	// ScheduleStep counts the steps of the retry schedule that are used up. Manual attempts use none, nor
	// do those that are made again.
	ScheduleStep int
	// AttemptTrigger is what the next attempt will be recorded as.
	AttemptTrigger Trigger
	NextAttemptAt  *time.Time // while open and not held: when it is due
	ClaimToken     *string    // who attempts it now; nil: nobody
	ClaimedAt      *time.Time
	ClaimedUntil   *time.Time
	LastOutcome    *Outcome
	LastStatus     *int       // HTTP status of the last attempt, nil without a response
	SucceededAt    *time.Time // the first 2xx; it is never taken back
	ReplayID       *string
	CreatedAt      time.Time
	CompletedAt    *time.Time
}

// IsNode marks Delivery as reachable through node(id:).
func (Delivery) IsNode() {}

// DeliveryFilter narrows a list of deliveries. Zero fields do not narrow; all that are set must
// hold. Outcomes and the response status are of the last attempt, times of creation.
type DeliveryFilter struct {
	WebhookID, EventID *string
	EventTypes         []string
	Statuses           []DeliveryStatus
	Outcomes           []Outcome
	Triggers           []Trigger
	ResponseMin        *int
	ResponseMax        *int
	Since, Until       *time.Time
	Tenant             *string
}
