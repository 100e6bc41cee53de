package control

import (
	"context"
	"slices"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// CreateAPIKey makes an API key of one tenant, or of the platform where none is named. key is the
// key itself, shown here and never again.
func (c *Control) CreateAPIKey(ctx context.Context, p *auth.Principal, in APIKeyInput) (row models.APIKey, key string, err error) {
	if in.Tenant != nil {
		if _, err := p.TenantFor(in.Tenant); err != nil {
			return models.APIKey{}, "", err
		}
	} else {
		in.Tenant = p.Tenant // a tenant's principal cannot make a platform key
	}
	check := checker{prefix: []string{"input"}}
	check.name(in.Name, "name")
	if in.Tenant != nil && !auth.ValidTenant(*in.Tenant) {
		check.add(models.CodeInvalid, []string{"tenant"}, "a tenant's name has 1 to %d printable characters", auth.MaxTenantLength)
	}
	check.scopes(in.Scopes, in.Tenant != nil)
	if in.ExpiresAt != nil {
		at := models.Instant(*in.ExpiresAt)
		in.ExpiresAt = &at
		if !at.After(c.now()) {
			check.add(models.CodeInvalid, []string{"expiresAt"}, "must be in the future")
		}
	}
	if err := check.problems.Err(); err != nil {
		return models.APIKey{}, "", err
	}
	key, prefix, hash := auth.NewKey()
	row = models.APIKey{
		ID: models.NewID(models.PrefixAPIKey), Name: in.Name, Tenant: in.Tenant, Prefix: prefix, Hash: hash, ExpiresAt: in.ExpiresAt,
	}
	for _, s := range in.Scopes {
		row.Scopes = append(row.Scopes, string(s))
	}
	if err := c.store.CreateAPIKey(ctx, &row); err != nil {
		return models.APIKey{}, "", err
	}
	c.keysChanged()
	return row, key, nil
}

func (k *checker) scopes(scopes []models.Scope, ofTenant bool) {
	if len(scopes) == 0 {
		k.add(models.CodeRequired, []string{"scopes"}, "at least one scope is needed: READ, MANAGE, EMIT or ADMIN")
	}
	for i, s := range scopes {
		path := []string{"scopes", itoa(i)}
		switch s {
		case models.ScopeRead, models.ScopeManage, models.ScopeEmit:
		case models.ScopeAdmin:
			if ofTenant {
				k.add(models.CodeInvalid, path, "ADMIN is for platform keys alone; leave out the tenant or the scope")
				continue
			}
		default:
			k.add(models.CodeInvalid, path, "must be READ, MANAGE, EMIT or ADMIN")
			continue
		}
		if slices.Contains(scopes[:i], s) {
			k.add(models.CodeInvalid, path, "this scope is named twice")
		}
	}
}

// RevokeAPIKey ends an API key: in this process now, in every other one within a second. A revoked
// key stays as it is.
func (c *Control) RevokeAPIKey(ctx context.Context, p *auth.Principal, id string) (models.APIKey, error) {
	if _, err := c.store.Tenant(p.Reach()).APIKey(ctx, id); err != nil {
		return models.APIKey{}, translateAt(err, "id")
	}
	row, err := c.store.RevokeAPIKey(ctx, id)
	if err != nil {
		return models.APIKey{}, translateAt(err, "id")
	}
	c.keysChanged()
	return row, nil
}
