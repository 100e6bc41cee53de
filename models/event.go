package models

import "time"

// Event is one thing that happened. Its data is kept as the text that it came as, because any
// re-encoding would change digits and key order.
type Event struct {
	ID             string `gorm:"primaryKey"`
	Tenant         string
	EventType      string
	Data           *string   // compact JSON object; nil once erased
	Timestamp      time.Time // when it happened
	DeliverAt      *time.Time
	IdempotencyKey *string
	Matched        int   // deliveries whose webhook was subscribed and whose filter was true
	Epoch          int64 // the config epoch that it was matched under
	Test           bool  // made by testWebhook: it did not happen, and lists leave it out
	CreatedAt      time.Time
	ErasedAt       *time.Time
}

// IsNode marks Event as reachable through node(id:).
func (Event) IsNode() {}

// EventFilter narrows a list of events. Zero fields do not narrow; times are of creation, Since
// inclusive and Until exclusive.
type EventFilter struct {
	EventTypes     []string
	Since, Until   *time.Time
	IdempotencyKey *string
	Tenant         *string
}
