package auth_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// counting is a real store whose reads of keys are counted.
type counting struct {
	*models.Store
	reads int
}

func (c *counting) APIKeyByHash(ctx context.Context, hash string) (models.APIKey, error) {
	c.reads++
	return c.Store.APIKeyByHash(ctx, hash)
}

func TestStoredKeys(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		keys := &counting{Store: store}
		a, err := auth.New(auth.Options{Store: keys, Logger: slog.New(slog.DiscardHandler), FlushInterval: time.Hour})
		require.NoError(t, err)
		key, prefix, hash := auth.NewKey()
		row := models.APIKey{
			Name: "test", Tenant: new("acme"), Scopes: models.StringList{"MANAGE"}, Prefix: prefix, Hash: hash,
		}
		_, err = a.Authenticate(t.Context(), "Bearer "+key)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		require.NoError(t, store.CreateAPIKey(t.Context(), &row))
		a.Invalidate()

		for range 10 {
			p, err := a.Authenticate(t.Context(), "Bearer "+key)
			require.NoError(t, err)
			require.Equal(t, row.ID, p.ID)
			require.Equal(t, models.Reach{Tenant: "acme"}, p.Reach())
			require.True(t, p.Has(models.ScopeRead))
		}
		require.Equal(t, 2, keys.reads)

		ctx, stop := context.WithCancel(t.Context())
		stop()
		require.NoError(t, a.Run(ctx), "the end writes what is left")
		stored, err := store.APIKeyByHash(t.Context(), hash)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), *stored.LastUsedAt, time.Minute)

		_, err = store.RevokeAPIKey(t.Context(), row.ID)
		require.NoError(t, err)
		a.Invalidate()
		_, err = a.Authenticate(t.Context(), "Bearer "+key)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		require.ErrorContains(t, err, "revoked")
	})
}
