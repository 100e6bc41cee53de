package app

import (
	"net/http"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// webhookKeys publishes an ED25519 webhook's public keys to anyone who knows its id, the old one
// too while a rotation overlaps, as a JWK set (RFC 7517).
func (a *App) webhookKeys(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !models.ValidID(models.PrefixWebhook, id) {
		http.NotFound(w, r)
		return
	}
	webhook, err := a.store.WebhookByID(r.Context(), id)
	if err != nil || webhook.PublicKey == nil || webhook.DeletedAt != nil {
		http.NotFound(w, r)
		return
	}
	keys := []string{*webhook.PublicKey}
	if webhook.PreviousPublicKey != nil && webhook.PreviousExpiresAt != nil && a.now().Before(*webhook.PreviousExpiresAt) {
		keys = append(keys, *webhook.PreviousPublicKey)
	}
	set, err := signing.JWKS(keys...)
	if err != nil {
		http.Error(w, "keys are unreadable", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	_, _ = w.Write(set)
}
