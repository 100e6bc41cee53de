package models

import "time"

// WebhookStatus says whether a webhook takes deliveries.
type WebhookStatus string

// The states of a webhook. ACTIVE is attempted; PAUSED holds what matches until it is resumed;
// DISABLED records what matches as skipped.
const (
	WebhookActive   WebhookStatus = "ACTIVE"
	WebhookPaused   WebhookStatus = "PAUSED"
	WebhookDisabled WebhookStatus = "DISABLED"
)

// WebhookStatusReason says who or what moved a webhook out of ACTIVE.
type WebhookStatusReason string

// Why a webhook is paused or disabled.
const (
	ReasonByUser       WebhookStatusReason = "BY_USER"
	ReasonReceiverGone WebhookStatusReason = "RECEIVER_GONE"
	ReasonFailing      WebhookStatusReason = "FAILING"
)

// SigningScheme names how a webhook's requests are signed.
type SigningScheme string

// The signing schemes of Standard Webhooks: v1 and v1a.
const (
	SigningHMAC    SigningScheme = "HMAC_SHA256"
	SigningEd25519 SigningScheme = "ED25519"
)

// Webhook is the stored configuration of one receiver. Secrets in it are sealed by the caller
// before they come here: this package never sees a plaintext key or header value.
type Webhook struct {
	ID           string     `gorm:"primaryKey"`
	Tenant       string     // never empty
	ExternalID   *string    // the caller's own key, unique among the tenant's webhooks that are not deleted
	Name         string     // 1–200 characters
	TargetURL    string     // as given; what is dialled is derived from it
	EventTypes   StringList // exact names, "prefix.*" or "*"
	Filter       *string    // CEL, nil: every subscribed event
	PayloadQuery *string    // GraphQL document, nil: data as it came
	// SealedHeaders is the sealed JSON list of custom headers, "" when there are none.
	SealedHeaders      string
	Status             WebhookStatus
	StatusReason       *WebhookStatusReason
	Timeout            *Millis   // nil: the process's default
	RetrySchedule      *Schedule // nil: the process's default
	RateLimitPerSecond *int      // nil: none
	Signing            SigningScheme
	SealedKey          string  // the current secret key, sealed
	KeyHint            *string // HMAC: last 4 characters before the padding
	PublicKey          *string // ED25519: whpk_…
	SealedPreviousKey  string  // the key before the last rotation, "" when there is none
	PreviousPublicKey  *string
	PreviousExpiresAt  *time.Time // until when the previous key still signs
	// Version is raised by every change of the configuration that a caller makes (update,
	// rotation); Revision by every change at all, status and deletion included. Version guards
	// edits, Revision names what was in force when an event came.
	Version   int
	Revision  int64
	Epoch     int64 // the config epoch of the newest revision
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt *time.Time
}

// IsNode marks Webhook as reachable through node(id:).
func (Webhook) IsNode() {}

// Revision is an immutable copy of what a webhook was from one config epoch to the next.
// It holds what matching and explaining need; keys are not in it.
type Revision struct {
	WebhookID    string `gorm:"primaryKey"`
	Revision     int64  `gorm:"primaryKey"`
	Epoch        int64
	Tenant       string
	EventTypes   StringList
	Filter       *string
	PayloadQuery *string
	Status       WebhookStatus
	StatusReason *WebhookStatusReason
	Deleted      bool
	CreatedAt    time.Time
}

// TableName is the table of revisions.
func (Revision) TableName() string { return "webhook_revisions" }

// WebhookFilter narrows a list of webhooks. Zero fields do not narrow.
type WebhookFilter struct {
	Status    *WebhookStatus
	EventType *string // webhooks subscribed to exactly this pattern, or whose pattern matches this name
	Search    *string // in name, target URL and external id, case-insensitive
	Tenant    *string
}

// WebhookHealth is how a webhook has been doing; it moves with every recorded attempt.
type WebhookHealth struct {
	WebhookID           string `gorm:"primaryKey"`
	ConsecutiveFailures int
	FailingSince        *time.Time // the first failure since the last success
	LastSuccessAt       *time.Time
	LastFailureAt       *time.Time
	// NotifiedAt is when the notice at half time went out in this run of failures; nil: not yet.
	NotifiedAt *time.Time
}

// TableName is the table of webhook health.
func (WebhookHealth) TableName() string { return "webhook_health" }
