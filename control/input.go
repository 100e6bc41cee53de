package control

import (
	"time"

	"github.com/intervengine/webhooks/models"
)

// Field is a field of an update: absent (it keeps its value), null (it is cleared) or a value.
type Field[T any] struct {
	Set   bool
	Value *T
}

// HeaderInput is a custom header. In an update, a nil Value keeps the stored one.
type HeaderInput struct {
	Name  string
	Value *string
}

// WebhookInput is a new webhook as its caller wrote it. Durations, URL and event types are texts,
// so that all that is wrong with them can be said at once.
type WebhookInput struct {
	ExternalID         *string
	Name               string
	TargetURL          string
	EventTypes         []string
	Filter             *string
	PayloadQuery       *string
	Headers            []HeaderInput
	Timeout            *string   // ISO 8601; nil: the default
	RetrySchedule      *[]string // ISO 8601; nil: the default, empty: no retries
	RateLimitPerSecond *int
	Signing            models.SigningScheme // "": HMAC_SHA256
	Tenant             *string
}

// WebhookChange is an update of a webhook as its caller wrote it.
type WebhookChange struct {
	ExternalID         Field[string]
	Name               Field[string]
	TargetURL          Field[string]
	EventTypes         Field[[]string]
	Filter             Field[string]
	PayloadQuery       Field[string]
	Headers            Field[[]HeaderInput]
	Timeout            Field[string]
	RetrySchedule      Field[[]string]
	RateLimitPerSecond Field[int]
}

// change is a new webhook as the change that makes it out of nothing, so that one set of rules
// holds for both.
func (in WebhookInput) change() WebhookChange {
	change := WebhookChange{
		ExternalID: optional(in.ExternalID), Name: given(in.Name), TargetURL: given(in.TargetURL),
		EventTypes: given(in.EventTypes), Filter: optional(in.Filter), PayloadQuery: optional(in.PayloadQuery),
		Headers: given(in.Headers), Timeout: optional(in.Timeout), RetrySchedule: optional(in.RetrySchedule),
		RateLimitPerSecond: optional(in.RateLimitPerSecond),
	}
	return change
}

func given[T any](v T) Field[T] { return Field[T]{Set: true, Value: &v} }

func optional[T any](v *T) Field[T] { return Field[T]{Set: v != nil, Value: v} }

// APIKeyInput is a new API key.
type APIKeyInput struct {
	Name      string
	Tenant    *string // nil: a platform key
	Scopes    []models.Scope
	ExpiresAt *time.Time // nil: never
}
