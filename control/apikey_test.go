package control_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		a, err := auth.New(auth.Options{Store: f.store, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		expires := time.Now().Add(time.Hour)
		row, key, err := f.CreateAPIKey(t.Context(), f.platform, control.APIKeyInput{
			Name: "CRM", Tenant: new("acme"), Scopes: []models.Scope{"READ", "EMIT"}, ExpiresAt: &expires,
		})
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(key, row.Prefix))
		require.NotContains(t, row.Hash, key)
		require.Equal(t, models.StringList{"READ", "EMIT"}, row.Scopes)
		require.Equal(t, models.Instant(expires), *row.ExpiresAt)

		p, err := a.Authenticate(t.Context(), "Bearer "+key)
		require.NoError(t, err)
		require.Equal(t, row.ID, p.ID)
		require.Equal(t, "acme", *p.Tenant)
		require.True(t, p.Has(models.ScopeEmit))
		require.False(t, p.Has(models.ScopeManage))

		for range 2 {
			revoked, err := f.RevokeAPIKey(t.Context(), f.platform, row.ID)
			require.NoError(t, err, "revoking twice is no fault")
			require.NotNil(t, revoked.RevokedAt)
		}
		a.Invalidate()
		_, err = a.Authenticate(t.Context(), "Bearer "+key)
		require.ErrorIs(t, err, auth.ErrBadCredentials)

		_, key, err = f.CreateAPIKey(t.Context(), f.platform, control.APIKeyInput{Name: "ops", Scopes: []models.Scope{"ADMIN"}})
		require.NoError(t, err)
		p, err = a.Authenticate(t.Context(), "Bearer "+key)
		require.NoError(t, err)
		require.Nil(t, p.Tenant)
		require.True(t, p.Has(models.ScopeAdmin))
	})
}

func TestBadAPIKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		read := []models.Scope{"READ"}
		tests := map[string]struct {
			in   control.APIKeyInput
			want []found
		}{
			"no name":             {control.APIKeyInput{Scopes: read}, []found{{"REQUIRED", "input.name"}}},
			"long name":           {control.APIKeyInput{Name: strings.Repeat("n", 201), Scopes: read}, []found{{"TOO_LONG", "input.name"}}},
			"no scopes":           {control.APIKeyInput{Name: "k"}, []found{{"REQUIRED", "input.scopes"}}},
			"scope twice":         {control.APIKeyInput{Name: "k", Scopes: []models.Scope{"READ", "READ"}}, []found{{"INVALID", "input.scopes.1"}}},
			"unknown scope":       {control.APIKeyInput{Name: "k", Scopes: []models.Scope{"ROOT"}}, []found{{"INVALID", "input.scopes.0"}}},
			"ADMIN with a tenant": {control.APIKeyInput{Name: "k", Tenant: new("acme"), Scopes: []models.Scope{"READ", "ADMIN"}}, []found{{"INVALID", "input.scopes.1"}}},
			"empty tenant":        {control.APIKeyInput{Name: "k", Tenant: new(""), Scopes: read}, []found{{"INVALID", "input.tenant"}}},
			"expired already":     {control.APIKeyInput{Name: "k", Scopes: read, ExpiresAt: new(time.Now())}, []found{{"INVALID", "input.expiresAt"}}},
			"all at once": {
				control.APIKeyInput{Tenant: new("a\nb"), ExpiresAt: new(time.Time{})},
				[]found{{"REQUIRED", "input.name"}, {"REQUIRED", "input.scopes"}, {"INVALID", "input.tenant"}, {"INVALID", "input.expiresAt"}},
			},
		}
		for name, tt := range tests {
			t.Log(name)
			_, key, err := f.CreateAPIKey(t.Context(), f.platform, tt.in)
			requireProblems(t, err, tt.want...)
			require.Empty(t, key)
		}
		count, err := f.store.CountAPIKeys(t.Context())
		require.NoError(t, err)
		require.Zero(t, count)

		_, err = f.RevokeAPIKey(t.Context(), f.platform, models.NewID(models.PrefixAPIKey))
		requireProblems(t, err, found{"NOT_FOUND", "id"})
		_, err = f.RevokeAPIKey(t.Context(), f.platform, "nonsense")
		requireProblems(t, err, found{"NOT_FOUND", "id"})
		row, _, err := f.CreateAPIKey(t.Context(), f.platform, control.APIKeyInput{Name: "k", Tenant: new("acme"), Scopes: read})
		require.NoError(t, err)
		_, err = f.RevokeAPIKey(t.Context(), f.other, row.ID)
		requireProblems(t, err, found{"NOT_FOUND", "id"})
		_, _, err = f.CreateAPIKey(t.Context(), f.acme, control.APIKeyInput{Name: "k", Tenant: new("other"), Scopes: read})
		require.ErrorIs(t, err, auth.ErrForbiddenTenant)
		made, _, err := f.CreateAPIKey(t.Context(), f.acme, control.APIKeyInput{Name: "k", Scopes: read})
		require.NoError(t, err)
		require.Equal(t, "acme", *made.Tenant, "a tenant cannot make a platform key")
	})
}
