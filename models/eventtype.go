package models

import "time"

// EventTypeStatus says what may still be done with an event type.
type EventTypeStatus string

// The states of an event type. DEPRECATED still delivers; ARCHIVED refuses new subscriptions
// and new events.
const (
	EventTypeActive     EventTypeStatus = "ACTIVE"
	EventTypeDeprecated EventTypeStatus = "DEPRECATED"
	EventTypeArchived   EventTypeStatus = "ARCHIVED"
)

// EventType is an entry of the catalogue, shared by all tenants.
type EventType struct {
	ID          string `gorm:"primaryKey"`
	Name        string // e.g. participant.created, unique
	Title       string
	Description *string
	Schema      *string // JSON Schema 2020-12 of data, as text
	Example     *string // an example of data, as text
	Strict      bool    // data that violates Schema is refused
	Status      EventTypeStatus
	Builtin     bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// IsNode marks EventType as reachable through node(id:).
func (EventType) IsNode() {}
