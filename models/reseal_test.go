package models_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestReseal(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		const oldKey, newKey = "v1.00000001.", "v1.00000002."
		var ids []string
		for n := range 5 {
			w := models.Webhook{
				Tenant: "acme", Name: "w", TargetURL: "https://a.example", EventTypes: models.StringList{"*"}, Signing: models.SigningHMAC,
				SealedKey: fmt.Sprint(oldKey, n),
			}
			if n == 1 {
				w.SealedPreviousKey, w.SealedHeaders = oldKey+"previous", oldKey+"headers"
			}
			require.NoError(t, store.CreateWebhook(t.Context(), &w))
			ids = append(ids, w.ID)
		}
		require.NoError(t, store.DeleteWebhook(t.Context(), models.Reach{All: true}, ids[4]))

		total, err := store.CountSealed(t.Context())
		require.NoError(t, err)
		require.Equal(t, 5, total, "deleted ones too")
		var all []models.Sealed
		for after := ""; ; {
			page, err := store.SealedPage(t.Context(), after, 2)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), 2)
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
			after = page[len(page)-1].WebhookID
		}
		require.Len(t, all, 5)
		require.Equal(t, models.Sealed{WebhookID: ids[1], SealedKey: oldKey + "1", SealedPreviousKey: oldKey + "previous", SealedHeaders: oldKey + "headers"}, all[1])

		before, err := store.WebhookByID(t.Context(), ids[0])
		require.NoError(t, err)
		epoch, err := store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		outside := func(prefixes ...string) string {
			found, ok, err := store.SealedOutside(t.Context(), prefixes)
			require.NoError(t, err)
			require.Equal(t, ok, found.WebhookID != "")
			return found.WebhookID
		}
		require.NotEmpty(t, outside(newKey))
		require.Empty(t, outside(newKey, oldKey))
		require.Empty(t, outside())

		var changes []models.Resealed
		for _, from := range all {
			to := from
			to.SealedKey = newKey + from.SealedKey[len(oldKey):]
			changes = append(changes, models.Resealed{From: from, To: to})
		}
		// Somebody rotates a key meanwhile: what they stored stays.
		_, err = store.UpdateWebhook(t.Context(), models.Reach{All: true}, ids[2], nil, func(w *models.Webhook) error {
			w.SealedKey = newKey + "rotated"
			return nil
		})
		require.NoError(t, err)
		replaced, err := store.ReplaceSealed(t.Context(), changes)
		require.NoError(t, err)
		require.Equal(t, 4, replaced)
		again, err := store.ReplaceSealed(t.Context(), changes)
		require.NoError(t, err)
		require.Zero(t, again)
		none, err := store.ReplaceSealed(t.Context(), nil)
		require.NoError(t, err)
		require.Zero(t, none)

		require.Equal(t, ids[1], outside(newKey), "its headers and its previous key are as they were")
		rotated, err := store.WebhookByID(t.Context(), ids[2])
		require.NoError(t, err)
		require.Equal(t, newKey+"rotated", rotated.SealedKey)
		after, err := store.WebhookByID(t.Context(), ids[0])
		require.NoError(t, err)
		before.SealedKey = newKey + "0"
		require.Equal(t, before, after, "nothing else is touched")
		head, err := store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		require.Equal(t, epoch+1, head, "the rotation alone was a change")
	})
}
