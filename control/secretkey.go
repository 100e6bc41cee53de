package control

import (
	"context"
	"fmt"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// setKey makes key the webhook's current one, sealed for this webhook alone.
func (c *Control) setKey(w *models.Webhook, key signing.SecretKey) error {
	sealed, err := c.keyring.SealSecret(key, w.ID)
	if err != nil {
		return fmt.Errorf("seal secret key: %w", err)
	}
	w.SealedKey = sealed
	w.KeyHint, w.PublicKey = nonEmpty(key.Hint()), nonEmpty(key.PublicKey())
	return nil
}

func nonEmpty(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// RotateWebhookSecretKey gives the webhook a new key. The old one signs beside it for overlap
// (ISO 8601, 0 to 7 days), then no more; a key that still overlapped from an earlier rotation ends
// now. secretKey is the new key, shown here and never again; "" for ED25519.
func (c *Control) RotateWebhookSecretKey(ctx context.Context, p *auth.Principal, id, overlap string, expectedVersion *int) (w models.Webhook, secretKey string, err error) {
	stored, err := c.webhook(ctx, p, id)
	if err != nil {
		return models.Webhook{}, "", err
	}
	check := checker{}
	both := check.duration(overlap, 0, maxOverlap, "overlap")
	if expectedVersion != nil && *expectedVersion != stored.Version {
		check.problems = append(check.problems, outdated(id))
	}
	if err := check.problems.Err(); err != nil {
		return models.Webhook{}, "", err
	}
	key, err := signing.NewSecretKey(signing.Scheme(stored.Signing)) // the scheme never changes
	if err != nil {
		return models.Webhook{}, "", err
	}
	// The database's clock decides when the overlap ends, as it decides all that is due.
	now, err := c.store.Now(ctx)
	if err != nil {
		return models.Webhook{}, "", err
	}
	ends := models.Instant(now.Add(both))
	w, err = c.store.UpdateWebhook(ctx, p.Reach(), id, expectedVersion, func(w *models.Webhook) error {
		w.SealedPreviousKey, w.PreviousPublicKey, w.PreviousExpiresAt = "", nil, nil
		if both > 0 {
			w.SealedPreviousKey, w.PreviousPublicKey, w.PreviousExpiresAt = w.SealedKey, w.PublicKey, &ends
		}
		return c.setKey(w, key)
	})
	if err != nil {
		return models.Webhook{}, "", translate(err, id)
	}
	return w, key.Reveal(), nil
}
