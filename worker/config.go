package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// maxReceivers bounds the webhooks whose keys are kept open in memory.
const maxReceivers = 10_000

// receiver is one revision of a webhook, ready to be sent to: its secrets opened, its target
// parsed. It is immutable.
type receiver struct {
	webhookID string
	revision  int64
	target    egress.Target
	headers   []egress.Header
	timeout   time.Duration
	schedule  []time.Duration
	rate      int // per second; 0: no limit
	signer    *signing.Signer
	// While a rotation overlaps, signer signs with both keys and after has the new one alone.
	overlapEnds time.Time
	after       *signing.Signer
	way         way
}

func (r *receiver) signerAt(now time.Time) *signing.Signer {
	if r.after != nil && !now.Before(r.overlapEnds) {
		return r.after
	}
	return r.signer
}

// receivers opens webhooks and remembers them by revision. A claim names the revision that is
// current, so what is remembered can never be stale: at most it is missing.
type receivers struct {
	store    *models.Store
	keyring  *signing.Keyring
	timeout  time.Duration
	schedule []time.Duration

	mu         sync.Mutex
	byID       map[string]*receiver
	complained map[string]time.Time // webhooks that could not be opened, when that was logged
	flight     singleflight.Group
}

// complainEvery is how often a webhook that cannot be opened is logged.
const complainEvery = time.Minute

// complain reports whether it is time to log that the webhook cannot be opened.
func (r *receivers) complain(webhookID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if last, ok := r.complained[webhookID]; ok && now.Sub(last) < complainEvery {
		return false
	}
	if len(r.complained) >= maxReceivers {
		clear(r.complained)
	}
	r.complained[webhookID] = now
	return true
}

// known is the webhook as it was opened last; nil where it was not.
func (r *receivers) known(webhookID string) *receiver {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[webhookID]
}

func (r *receivers) get(ctx context.Context, webhookID string, revision int64) (*receiver, error) {
	if known := r.known(webhookID); known != nil && known.revision >= revision {
		return known, nil
	}
	// Keyed by revision too: a load that began before a change must not answer those after it.
	v, err, _ := r.flight.Do(fmt.Sprintf("%s/%d", webhookID, revision), func() (any, error) {
		// Others wait for this read too: it must not end with the patience of the first.
		ctx := context.WithoutCancel(ctx)
		webhook, err := r.store.WebhookByID(ctx, webhookID)
		if err != nil {
			return nil, fmt.Errorf("read webhook: %w", err)
		}
		opened, err := r.open(webhook)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for id := range r.byID {
			if len(r.byID) < maxReceivers {
				break
			}
			delete(r.byID, id)
		}
		if have := r.byID[webhookID]; have == nil || have.revision < opened.revision {
			r.byID[webhookID] = opened
		}
		return opened, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*receiver), nil //nolint:forcetypeassert // the only type that the function above returns
}

func (r *receivers) open(w models.Webhook) (*receiver, error) {
	out := &receiver{webhookID: w.ID, revision: w.Revision, timeout: r.timeout, schedule: r.schedule}
	if w.Timeout != nil {
		out.timeout = time.Duration(*w.Timeout)
	}
	if w.RetrySchedule != nil {
		out.schedule = *w.RetrySchedule
	}
	if w.RateLimitPerSecond != nil {
		out.rate = *w.RateLimitPerSecond
	}
	var err error
	if out.target, err = egress.ParseTarget(w.TargetURL); err != nil {
		return nil, fmt.Errorf("parse target: %w", err)
	}
	key, err := r.keyring.OpenSecret(w.SealedKey, w.ID)
	if err != nil {
		return nil, fmt.Errorf("open secret key of %s: %w", w.ID, err)
	}
	out.signer = signing.NewSigner(key)
	if w.SealedPreviousKey != "" && w.PreviousExpiresAt != nil {
		previous, err := r.keyring.OpenSecret(w.SealedPreviousKey, w.ID)
		if err != nil {
			return nil, fmt.Errorf("open previous secret key of %s: %w", w.ID, err)
		}
		out.after, out.overlapEnds = out.signer, *w.PreviousExpiresAt
		out.signer = signing.NewSigner(key, previous)
	}
	if w.SealedHeaders != "" {
		text, err := r.keyring.Open(w.SealedHeaders, w.ID+"/headers")
		if err != nil {
			return nil, fmt.Errorf("open headers of %s: %w", w.ID, err)
		}
		if err := json.Unmarshal(text, &out.headers); err != nil {
			return nil, fmt.Errorf("read headers of %s: not a list of headers", w.ID)
		}
	}
	return out, nil
}
