package models

import "time"

// Scope is what a key or token may do. ADMIN includes all, MANAGE includes READ, EMIT stands
// alone.
type Scope string

// The scopes.
const (
	ScopeRead   Scope = "READ"
	ScopeManage Scope = "MANAGE"
	ScopeEmit   Scope = "EMIT"
	ScopeAdmin  Scope = "ADMIN"
)

// APIKey is a key as it is stored: its hash, never itself.
type APIKey struct {
	ID         string `gorm:"primaryKey"`
	Name       string
	Tenant     *string // nil: a platform key
	Scopes     StringList
	Prefix     string // the first characters, to recognise it by
	Hash       string // SHA-256 of the key, hex, unique
	LastUsedAt *time.Time
	ExpiresAt  *time.Time
	RevokedAt  *time.Time
	CreatedAt  time.Time
}

// TableName is the table of API keys.
func (APIKey) TableName() string { return "api_keys" }
