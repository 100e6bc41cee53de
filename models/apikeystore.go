package models

import (
	"context"
	"errors"
	"strings"
	"time"

	"gorm.io/gorm"
)

// APIKey gives an API key by id.
func (t *Tenant) APIKey(ctx context.Context, id string) (APIKey, error) {
	return one[APIKey](ctx, t, PrefixAPIKey, id)
}

// APIKeys lists API keys, newest first, revoked and expired ones too. A reach over all tenants
// sees platform keys as well.
func (t *Tenant) APIKeys(ctx context.Context, p Page) (Result[APIKey], error) {
	l := byID("apiKeys", "", PrefixAPIKey, func(k *APIKey) string { return k.ID })
	return page(ctx, t.store, l, p, func(db *gorm.DB) []*gorm.DB { return []*gorm.DB{t.of(db, &APIKey{}, nil)} })
}

// CreateAPIKey stores k and fills in its time of creation, and its id where it is empty. A key
// with the same hash is a *ConflictError.
func (s *Store) CreateAPIKey(ctx context.Context, k *APIKey) error {
	if k.ID == "" {
		k.ID = NewID(PrefixAPIKey)
	}
	if k.ExpiresAt != nil {
		at := Instant(*k.ExpiresAt)
		k.ExpiresAt = &at
	}
	// A change, so that no process goes on refusing a key that it has looked up in vain.
	err := s.changeConfig(ctx, ChangedAPIKey, "", k.ID, func(tx *gorm.DB, _ int64, now time.Time) error {
		k.CreatedAt = now
		return tx.Create(k).Error
	})
	if err == nil || !taken(err) {
		return err
	}
	owner, lookup := s.APIKeyByHash(ctx, k.Hash)
	if lookup != nil {
		return lookup
	}
	return &ConflictError{ID: owner.ID}
}

// RevokeAPIKey ends a key's use for ever. Revoking it again changes nothing. ErrNotFound where
// there is no such key.
func (s *Store) RevokeAPIKey(ctx context.Context, id string) (APIKey, error) {
	var k APIKey
	if !ValidID(PrefixAPIKey, id) {
		return k, ErrNotFound
	}
	err := s.changeConfig(ctx, ChangedAPIKey, "", id, func(tx *gorm.DB, _ int64, now time.Time) error {
		k = APIKey{}
		if err := tx.Where("id = ?", id).Take(&k).Error; err != nil {
			return err
		}
		if k.RevokedAt != nil {
			return errUnchanged
		}
		k.RevokedAt = &now
		return tx.Model(&APIKey{}).Where("id = ?", id).UpdateColumn("revoked_at", now).Error
	})
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return APIKey{}, ErrNotFound
	case err != nil && !errors.Is(err, errUnchanged):
		return APIKey{}, err
	}
	return k, nil
}

// APIKeyByHash gives the key with this hash, revoked and expired ones too. ErrNotFound.
func (s *Store) APIKeyByHash(ctx context.Context, hash string) (APIKey, error) {
	return take[APIKey](ctx, s, func(db *gorm.DB) *gorm.DB { return equal(db.Model(&APIKey{}), "hash", &hash) })
}

// APIKeysByHash gives the keys with these hashes, by hash, revoked and expired ones too. Unknown
// hashes are absent.
func (s *Store) APIKeysByHash(ctx context.Context, hashes []string) (map[string]APIKey, error) {
	found := make(map[string]APIKey, len(hashes))
	if len(hashes) == 0 {
		return found, nil
	}
	keys, err := find[APIKey](ctx, s, func(db *gorm.DB) *gorm.DB { return among(db.Model(&APIKey{}), "hash", "", hashes) })
	for _, k := range keys {
		found[k.Hash] = k
	}
	return found, err
}

// CountAPIKeys counts the keys that are not revoked, expired ones too.
func (s *Store) CountAPIKeys(ctx context.Context) (int, error) {
	return count(ctx, s, func(db *gorm.DB) *gorm.DB { return db.Model(&APIKey{}).Where("revoked_at IS NULL") })
}

// touchPage bounds the parameters of one statement of TouchAPIKeys.
const touchPage = 1000

// TouchAPIKeys notes when keys were last used, in one statement for each thousand. Times only go
// forward: an earlier one than is stored changes nothing. Unknown ids are passed over.
func (s *Store) TouchAPIKeys(ctx context.Context, used map[string]time.Time) error {
	var ids []string
	for id := range used {
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		n := min(len(ids), touchPage)
		if err := s.touchAPIKeys(ctx, valid(PrefixAPIKey, ids[:n]), used); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (s *Store) touchAPIKeys(ctx context.Context, ids []string, used map[string]time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	// The cast is for Postgres, which takes the branches for texts.
	branch := " WHEN ? THEN CAST(? AS timestamptz)"
	if s.dialect == DialectSQLite {
		branch = " WHEN ? THEN ?"
	}
	var args []any
	for _, id := range ids {
		args = append(args, id, Instant(used[id]))
	}
	at := gorm.Expr("CASE id"+strings.Repeat(branch, len(ids))+" END", args...)
	return s.working(ctx, func(tx *gorm.DB) error {
		return tx.Model(&APIKey{}).Where("id IN ?", ids).Where("last_used_at IS NULL OR last_used_at < ?", at).
			UpdateColumn("last_used_at", at).Error
	})
}
