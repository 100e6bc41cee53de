package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

func parse(t *testing.T, keys string) *signing.Keyring {
	t.Helper()
	ring, err := signing.ParseKeyring(keys)
	require.NoError(t, err)
	return ring
}

func TestReseal(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		// What an old key sealed, while it was the only one.
		oldKey, newKey := signing.GenerateMasterKey(), signing.GenerateMasterKey()
		before, both, after := parse(t, oldKey), parse(t, newKey+","+oldKey), parse(t, newKey)
		f.keyring = before
		plain := map[string]string{}
		for n := range models.MaxResealed + 3 {
			key, err := signing.NewSecretKey(signing.HMACSHA256)
			require.NoError(t, err)
			w := models.Webhook{
				ID: models.NewID(models.PrefixWebhook), Tenant: "acme", Name: "w", TargetURL: "https://a.example",
				EventTypes: models.StringList{"*"}, Signing: models.SigningHMAC,
			}
			w.SealedKey, err = before.SealSecret(key, w.ID)
			require.NoError(t, err)
			if n == 0 {
				w.SealedPreviousKey = w.SealedKey
				w.SealedHeaders, err = before.Seal([]byte(`[{"Name":"x-a","Value":"b"}]`), w.ID+"/headers")
				require.NoError(t, err)
				ends := time.Now().Add(time.Hour)
				w.PreviousExpiresAt = &ends
			}
			require.NoError(t, f.store.CreateWebhook(t.Context(), &w))
			plain[w.ID] = key.Reveal()
		}

		// Broken off after the first page.
		ctx, cancel := context.WithCancel(t.Context())
		summary, err := control.Reseal(ctx, control.ResealOptions{Store: f.store, Keyring: both, Progress: func(control.ResealSummary) { cancel() }})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, models.MaxResealed, summary.Resealed)
		_, ok, err := f.store.SealedOutside(t.Context(), after.SealedPrefixes())
		require.NoError(t, err)
		require.True(t, ok)

		// Continued, while another process rotates a key between its page's reading and writing.
		var told []control.ResealSummary
		summary, err = control.Reseal(t.Context(), control.ResealOptions{
			Store: f.store, Keyring: both, Progress: func(s control.ResealSummary) { told = append(told, s) },
		})
		require.NoError(t, err)
		require.Equal(t, control.ResealSummary{PrimaryKey: after.PrimaryID(), Webhooks: len(plain), Looked: len(plain), Resealed: 3}, summary)
		require.Equal(t, summary, told[len(told)-1])
		_, ok, err = f.store.SealedOutside(t.Context(), after.SealedPrefixes())
		require.NoError(t, err)
		require.False(t, ok)
		for id, key := range plain {
			w, err := f.store.WebhookByID(t.Context(), id)
			require.NoError(t, err)
			opened, err := after.OpenSecret(w.SealedKey, id)
			require.NoError(t, err)
			require.Equal(t, key, opened.Reveal())
			if w.SealedHeaders != "" {
				text, err := after.Open(w.SealedHeaders, id+"/headers")
				require.NoError(t, err)
				require.Contains(t, string(text), "x-a")
				_, err = after.OpenSecret(w.SealedPreviousKey, id)
				require.NoError(t, err)
			}
		}

		// With the wrong keys nothing is touched, and it is said which one is missing.
		wrong := parse(t, signing.GenerateMasterKey())
		summary, err = control.Reseal(t.Context(), control.ResealOptions{Store: f.store, Keyring: wrong})
		var incomplete *control.ResealError
		require.ErrorAs(t, err, &incomplete)
		require.Contains(t, err.Error(), after.PrimaryID())
		require.Equal(t, len(plain), summary.Failed)
		require.Equal(t, []string{after.PrimaryID()}, summary.UnknownKeys)
		require.Zero(t, summary.Resealed)
	})
}

// An update that was planned before the secrets were sealed anew must not bring the old seals back.
func TestAnUpdateBesideAResealKeepsTheNewSeals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		next := signing.GenerateMasterKey()
		resealed := false
		f.lookups.before = func() {
			// The new target is looked up after the webhook was read and before it is locked.
			stored, err := f.store.SealedPage(t.Context(), "", 1)
			require.NoError(t, err)
			key, err := f.keyring.OpenSecret(stored[0].SealedKey, w.ID)
			require.NoError(t, err)
			to := stored[0]
			to.SealedKey, err = parse(t, next).SealSecret(key, w.ID)
			require.NoError(t, err)
			n, err := f.store.ReplaceSealed(t.Context(), []models.Resealed{{From: stored[0], To: to}})
			require.NoError(t, err)
			resealed = n == 1
		}
		url := "https://elsewhere.example/hook"
		_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{TargetURL: set(url)}, nil)
		require.NoError(t, err)
		require.True(t, resealed)
		after, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, url, after.TargetURL)
		_, err = parse(t, next).OpenSecret(after.SealedKey, w.ID)
		require.NoError(t, err)
	})
}
