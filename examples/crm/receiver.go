package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const maxBody = 1 << 20

// contact is what the CRM keeps of a participant.
type contact struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Email string   `json:"email"`
	Phone string   `json:"phone,omitempty"`
	Notes []string `json:"notes,omitempty"` // what changed, oldest first
}

// participant is the part of an event's data that the CRM reads; unknown fields are ignored, so
// that the platform may add some.
type participant struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
	Phone string `json:"phone"`
}

// event is the body of a request, as Standard Webhooks lays it out.
type event struct {
	Type string `json:"type"`
	Data struct {
		Participant participant `json:"participant"`
		Changes     []struct {
			Field  string `json:"field"`
			Before any    `json:"before"`
			After  any    `json:"after"`
		} `json:"changes"`
	} `json:"data"`
}

// receiver keeps the contact list.
type receiver struct {
	webhook *standardwebhooks.Webhook

	mu       sync.Mutex
	contacts map[string]*contact
	seen     map[string]bool // event ids that were taken: a delivery may come more than once
}

func newReceiver(secret string) (*receiver, error) {
	webhook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, fmt.Errorf("read WEBHOOK_SECRET: %w", err)
	}
	return &receiver{webhook: webhook, contacts: map[string]*contact{}, seen: map[string]bool{}}, nil
}

func (r *receiver) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhooks", r.receive)
	mux.HandleFunc("GET /contacts", r.list)
	return mux
}

func (r *receiver) receive(w http.ResponseWriter, req *http.Request) {
	// The signature is over these exact bytes: verify before parsing, and never a re-encoded copy.
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "body could not be read", http.StatusBadRequest)
		return
	}
	// Refuses a wrong key, a changed body, and a request older than five minutes that is played again.
	if err := r.webhook.Verify(body, req.Header); err != nil {
		http.Error(w, "signature refused", http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	r.take(req.Header.Get("webhook-id"), e)
	w.WriteHeader(http.StatusNoContent)
}

// take applies an event once.
func (r *receiver) take(id string, e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return
	}
	r.seen[id] = true
	p := e.Data.Participant
	switch e.Type {
	case "participant.created", "participant.profile_updated":
		c := r.contacts[p.ID]
		if c == nil {
			c = &contact{ID: p.ID}
			r.contacts[p.ID] = c
		}
		c.Name, c.Email, c.Phone = p.Name, p.Email, p.Phone
		for _, change := range e.Data.Changes {
			c.Notes = append(c.Notes, fmt.Sprintf("%s: %v → %v", change.Field, change.Before, change.After))
		}
	default:
		// Not subscribed to; a newer type must not be an error either.
	}
}

func (r *receiver) list(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	list := make([]contact, 0, len(r.contacts))
	for _, c := range r.contacts {
		list = append(list, *c)
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b contact) int { return cmp.Compare(a.ID, b.ID) })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}
