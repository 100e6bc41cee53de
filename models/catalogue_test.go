package models_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestUpsertEventType(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		made, err := store.UpsertEventType(ctx, "order.placed", func(e *models.EventType) error {
			require.True(t, e.CreatedAt.IsZero(), "new")
			e.Title, e.Schema, e.Strict = "Order Placed", new(`{"type":"object"}`), true
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, models.EventTypeActive, made.Status)
		require.False(t, made.Builtin)
		read, err := store.Tenant(models.Reach{Tenant: "acme"}).EventTypeByName(ctx, "order.placed")
		require.NoError(t, err, "the catalogue is everybody's")
		require.Equal(t, made, read)
		read, err = store.Tenant(models.Reach{Tenant: "rival"}).EventType(ctx, made.ID)
		require.NoError(t, err)
		require.Equal(t, made, read)
		change := lastChange(t, store)
		require.Equal(t, models.ChangedEventType, change.Kind)
		require.Equal(t, made.ID, change.ObjectID)
		require.Empty(t, change.Tenant)

		same, err := store.UpsertEventType(ctx, "order.placed", func(*models.EventType) error { return nil })
		require.NoError(t, err)
		require.Equal(t, made, same)
		refused := errors.New("refused")
		_, err = store.UpsertEventType(ctx, "other", func(*models.EventType) error { return refused })
		require.ErrorIs(t, err, refused)
		require.Equal(t, change, lastChange(t, store), "no trace")

		edited, err := store.UpsertEventType(ctx, "order.placed", func(e *models.EventType) error {
			require.False(t, e.CreatedAt.IsZero())
			e.Status, e.Schema, e.ID, e.Name = models.EventTypeArchived, nil, "x", "y"
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, made.ID, edited.ID)
		require.Equal(t, made.CreatedAt, edited.CreatedAt)
		read, err = store.Tenant(all).EventTypeByName(ctx, "order.placed")
		require.NoError(t, err)
		require.Equal(t, edited, read)
	})
}

func TestEnsureBuiltinTypes(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		ship := func(title string) []models.EventType {
			return []models.EventType{
				{Name: "b", Title: title + " b", Description: new("d"), Schema: new("{}"), Example: new("{}")},
				{Name: "a", Title: title + " a"},
			}
		}
		list := func(status *models.EventTypeStatus) []string {
			got, err := store.Tenant(all).EventTypes(ctx, status, models.Page{})
			require.NoError(t, err)
			n, err := store.Tenant(all).EventTypeCount(ctx, status)
			require.NoError(t, err)
			require.Len(t, got.Items, n)
			return ids(got.Items, func(e models.EventType) string { return e.Title })
		}
		require.NoError(t, store.EnsureBuiltinTypes(ctx, ship("v1")))
		require.Equal(t, []string{"v1 a", "v1 b"}, list(nil), "by name")
		change := lastChange(t, store)
		require.NoError(t, store.EnsureBuiltinTypes(ctx, ship("v1")))
		require.Equal(t, change, lastChange(t, store), "nothing to do")

		_, err := store.UpsertEventType(ctx, "a", func(e *models.EventType) error { e.Title = "mine"; return nil })
		require.NoError(t, err)
		require.NoError(t, store.EnsureBuiltinTypes(ctx, append(ship("v2"), models.EventType{Name: "c", Title: "v2 c", Status: models.EventTypeDeprecated})))
		require.Equal(t, []string{"mine", "v2 b", "v2 c"}, list(nil), "an edited type is the operator's")
		require.Equal(t, []string{"v2 c"}, list(new(models.EventTypeDeprecated)))
		page, err := store.Tenant(all).EventTypes(ctx, nil, models.Page{First: new(1)})
		require.NoError(t, err)
		page, err = store.Tenant(all).EventTypes(ctx, nil, models.Page{First: new(1), After: &page.Cursors[0]})
		require.NoError(t, err)
		require.Equal(t, "b", page.Items[0].Name)
		require.True(t, page.HasNext)
		require.True(t, page.HasPrevious)
	})
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		soon := time.Now().Add(time.Hour)
		k := models.APIKey{Name: "ci", Tenant: new("acme"), Scopes: models.StringList{"EMIT", "READ"}, Prefix: "iwk_ab", Hash: "h1", ExpiresAt: &soon}
		require.NoError(t, store.CreateAPIKey(ctx, &k))
		platform := models.APIKey{Name: "admin", Scopes: models.StringList{"ADMIN"}, Hash: "h2"}
		require.NoError(t, store.CreateAPIKey(ctx, &platform))
		require.Equal(t, models.ChangedAPIKey, lastChange(t, store).Kind)
		var conflict *models.ConflictError
		require.ErrorAs(t, store.CreateAPIKey(ctx, &models.APIKey{Name: "again", Hash: "h1"}), &conflict)
		require.Equal(t, k.ID, conflict.ID)

		read, err := store.APIKeyByHash(ctx, "h1")
		require.NoError(t, err)
		require.Equal(t, k, read)
		_, err = store.APIKeyByHash(ctx, "h3")
		require.ErrorIs(t, err, models.ErrNotFound)
		found, err := store.APIKeysByHash(ctx, []string{"h1", "h2", "h3"})
		require.NoError(t, err)
		require.Equal(t, map[string]models.APIKey{"h1": k, "h2": platform}, found)
		own, err := store.Tenant(models.Reach{Tenant: "acme"}).APIKeys(ctx, models.Page{})
		require.NoError(t, err)
		require.Equal(t, []models.APIKey{k}, own.Items)
		every, err := store.Tenant(all).APIKeys(ctx, models.Page{})
		require.NoError(t, err)
		require.Equal(t, []models.APIKey{platform, k}, every.Items)

		at := models.Instant(time.Now())
		require.NoError(t, store.TouchAPIKeys(ctx, map[string]time.Time{k.ID: at, platform.ID: at.Add(time.Second), "key_\x00": at, models.NewID(models.PrefixAPIKey): at}))
		require.NoError(t, store.TouchAPIKeys(ctx, map[string]time.Time{k.ID: at.Add(time.Minute), platform.ID: at}))
		require.NoError(t, store.TouchAPIKeys(ctx, nil))
		found, err = store.APIKeysByHash(ctx, []string{"h1", "h2"})
		require.NoError(t, err)
		require.Equal(t, at.Add(time.Minute), *found["h1"].LastUsedAt)
		require.Equal(t, at.Add(time.Second), *found["h2"].LastUsedAt, "never backward")

		n, err := store.CountAPIKeys(ctx)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		revoked, err := store.RevokeAPIKey(ctx, k.ID)
		require.NoError(t, err)
		require.NotNil(t, revoked.RevokedAt)
		change := lastChange(t, store)
		require.Equal(t, k.ID, change.ObjectID)
		again, err := store.RevokeAPIKey(ctx, k.ID)
		require.NoError(t, err)
		require.Equal(t, revoked, again)
		require.Equal(t, change, lastChange(t, store))
		n, err = store.CountAPIKeys(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		for _, id := range []string{"nonsense", models.NewID(models.PrefixAPIKey)} {
			_, err = store.RevokeAPIKey(ctx, id)
			require.ErrorIs(t, err, models.ErrNotFound)
		}
	})
}
