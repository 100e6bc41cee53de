package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// maxResealPasses bounds how often what others changed meanwhile is looked at again.
const maxResealPasses = 10

// ResealOptions are what Reseal needs.
type ResealOptions struct {
	Store   *models.Store
	Keyring *signing.Keyring
	// Progress is told after each page; nil: nobody is.
	Progress func(ResealSummary)
}

// ResealSummary is how far Reseal has come.
type ResealSummary struct {
	PrimaryKey string `json:"primaryKey"` // the id of the master key that seals
	Webhooks   int    `json:"webhooks"`   // in all, deleted ones too
	Looked     int    `json:"looked"`     // at so many of them
	Resealed   int    `json:"resealed"`   // sealed anew
	Failed     int    `json:"failed"`     // could not be opened, and stay as they are
	// UnknownKeys are the ids of master keys that sealed what could not be opened.
	UnknownKeys []string `json:"unknownKeys,omitempty"`
}

// ResealError says that some of what is stored is not sealed with the first master key.
type ResealError struct{ Summary ResealSummary }

func (e *ResealError) Error() string {
	text := fmt.Sprintf("secrets of %d webhooks could not be opened and stay as they are", e.Summary.Failed)
	var textSb40 strings.Builder
	for i, id := range e.Summary.UnknownKeys {
		if i == 0 {
			textSb40.WriteString("; SECRETS_KEY lacks the master key " + id)
			continue
		}
		textSb40.WriteString(", " + id)
	}
	text += textSb40.String()
	return text
}

// Reseal seals everything that webhooks store sealed with the first master key, page by page. What
// is sealed with it already is passed over, so a run that was broken off is continued by the next
// one. It may run beside servers: where a webhook changes meanwhile, the change stands and is
// looked at again. Servers that do not have the first key yet could not open what this writes, and
// servers that seal with another one undo it.
//
// What cannot be opened is counted and stays; then the error is a *ResealError.
func Reseal(ctx context.Context, o ResealOptions) (ResealSummary, error) {
	total, err := o.Store.CountSealed(ctx)
	if err != nil {
		return ResealSummary{}, fmt.Errorf("count webhooks: %w", err)
	}
	summary := ResealSummary{PrimaryKey: o.Keyring.PrimaryID(), Webhooks: total}
	for pass := 1; ; pass++ {
		// What an earlier pass could not open is met again.
		summary.Looked, summary.Failed, summary.UnknownKeys = 0, 0, nil
		overtaken, err := resealAll(ctx, o, &summary)
		switch {
		case err != nil:
			return summary, err
		case overtaken > 0 && pass < maxResealPasses:
			continue
		case overtaken > 0:
			return summary, fmt.Errorf("%d webhooks were changed by others each time they were sealed anew; run it again", overtaken)
		case summary.Failed > 0:
			return summary, &ResealError{Summary: summary}
		default:
			return summary, nil
		}
	}
}

// resealAll walks over all webhooks once. overtaken is how many others changed meanwhile.
func resealAll(ctx context.Context, o ResealOptions, summary *ResealSummary) (overtaken int, err error) {
	for after := ""; ; {
		page, err := o.Store.SealedPage(ctx, after, models.MaxResealed)
		if err != nil {
			return overtaken, fmt.Errorf("read sealed secrets: %w", err)
		}
		var changes []models.Resealed
		for _, from := range page {
			to, err := reseal(o.Keyring, from)
			switch {
			case errors.Is(err, signing.ErrUnknownKey), errors.Is(err, signing.ErrCorrupt):
				summary.fail(o.Keyring, from)
			case err != nil:
				return overtaken, err
			}
			// What could be opened is written though another part could not.
			if to != from {
				changes = append(changes, models.Resealed{From: from, To: to})
			}
		}
		replaced, err := o.Store.ReplaceSealed(ctx, changes)
		if err != nil {
			return overtaken, fmt.Errorf("write sealed secrets: %w", err)
		}
		overtaken += len(changes) - replaced
		summary.Looked += len(page)
		summary.Resealed += replaced
		summary.Webhooks = max(summary.Webhooks, summary.Looked)
		if o.Progress != nil {
			o.Progress(*summary)
		}
		if len(page) < models.MaxResealed {
			return overtaken, nil
		}
		after = page[len(page)-1].WebhookID
	}
}

// reseal gives what a webhook is to store. With an error, the parts that could be opened are
// sealed anew and the others are as they were.
func reseal(keyring *signing.Keyring, from models.Sealed) (to models.Sealed, err error) {
	to = from
	for _, part := range []struct {
		text *string
		aad  string
	}{
		{&to.SealedKey, from.WebhookID},
		{&to.SealedPreviousKey, from.WebhookID},
		{&to.SealedHeaders, headersOf(from.WebhookID)},
	} {
		if *part.text == "" || !keyring.NeedsReseal(*part.text) {
			continue
		}
		plain, openErr := keyring.Open(*part.text, part.aad)
		if openErr != nil {
			err = openErr
			continue
		}
		sealed, sealErr := keyring.Seal(plain, part.aad)
		clear(plain)
		if sealErr != nil {
			return from, fmt.Errorf("seal secrets of %s: %w", from.WebhookID, sealErr)
		}
		*part.text = sealed
	}
	return to, err
}

// fail counts a webhook with something that cannot be opened.
func (s *ResealSummary) fail(keyring *signing.Keyring, from models.Sealed) {
	s.Failed++
	for _, text := range []string{from.SealedKey, from.SealedPreviousKey, from.SealedHeaders} {
		id := signing.SealedID(text)
		if id != "" && !slices.Contains(keyring.IDs(), id) && !slices.Contains(s.UnknownKeys, id) {
			s.UnknownKeys = append(s.UnknownKeys, id)
		}
	}
}
