package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
)

// Bounds of a custom header, as egress has them: there they are one kind of refusal among many,
// here they have a code of their own.
const (
	maxHeaderName  = 100
	maxHeaderValue = 4096
)

// headersOf names the place that headers are sealed for, so that what is sealed for one webhook,
// or as its key, does not open as its headers.
func headersOf(webhookID string) string { return webhookID + "/headers" }

// Headers are a webhook's custom headers for reading: the values of those that carry credentials
// are masked.
func (c *Control) Headers(_ context.Context, w models.Webhook) ([]models.Header, error) {
	stored, err := c.openHeaders(&w)
	if err != nil {
		return nil, err
	}
	shown := make([]models.Header, len(stored))
	for i, h := range stored {
		shown[i] = models.Header{Name: h.Name, Value: h.Value}
		if egress.SensitiveHeader(h.Name) {
			shown[i].Value, shown[i].Masked = egress.Mask, true
		}
	}
	return shown, nil
}

func (c *Control) openHeaders(w *models.Webhook) ([]egress.Header, error) {
	if w.SealedHeaders == "" {
		return nil, nil
	}
	text, err := c.keyring.Open(w.SealedHeaders, headersOf(w.ID))
	if err != nil {
		return nil, fmt.Errorf("open headers of %s: %w", w.ID, err)
	}
	var headers []egress.Header
	if json.Unmarshal(text, &headers) != nil { // the parser's own error would quote a value
		return nil, fmt.Errorf("read headers of %s: not a list of headers", w.ID)
	}
	return headers, nil
}

// applyHeaders makes in the webhook's whole list of headers, sealed. A header without a value
// keeps the value that is stored under its name.
func (c *Control) applyHeaders(k *checker, in []HeaderInput, w *models.Webhook) error {
	if len(in) > maxHeaders {
		k.add(models.CodeTooLong, []string{"headers"}, "%d headers are given, at most %d are allowed", len(in), maxHeaders)
		return nil
	}
	before, err := c.openHeaders(w)
	if err != nil {
		return err
	}
	stored := make(map[string]string, len(before))
	for _, h := range before {
		stored[strings.ToLower(h.Name)] = h.Value
	}
	headers := make([]egress.Header, 0, len(in))
	seen := make(map[string]bool, len(in))
	for i, h := range in {
		lower := strings.ToLower(h.Name)
		value, known := stored[lower]
		if h.Value != nil {
			value = *h.Value
		}
		k.headerName(h.Name, seen[lower], itoa(i))
		seen[lower] = true
		if h.Value == nil && !known {
			k.add(models.CodeRequired, []string{"headers", itoa(i), "value"}, "a value is needed: none is stored under this name")
		}
		if h.Value != nil {
			k.headerValue(value, itoa(i))
		}
		headers = append(headers, egress.Header{Name: h.Name, Value: value})
	}
	w.SealedHeaders = ""
	if len(headers) == 0 || len(k.problems) > 0 {
		return nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return fmt.Errorf("encode headers of %s: %w", w.ID, err)
	}
	if w.SealedHeaders, err = c.keyring.Seal(text, headersOf(w.ID)); err != nil {
		return fmt.Errorf("seal headers of %s: %w", w.ID, err)
	}
	return nil
}

// headerName and headerValue check the two parts by themselves, so that what is wrong with both
// is said at once.
func (k *checker) headerName(name string, repeated bool, index string) {
	path := []string{"headers", index, "name"}
	switch err := egress.ValidateHeader(name, ""); {
	case name == "":
		k.add(models.CodeRequired, path, "a name is needed")
	case len(name) > maxHeaderName:
		k.add(models.CodeTooLong, path, "the header's name has %d characters, at most %d are allowed", len(name), maxHeaderName)
	case err != nil:
		k.add(models.CodeInvalid, path, "%s", err.Error())
	case repeated:
		k.add(models.CodeInvalid, path, "this header is given twice; names do not differ by case")
	}
}

func (k *checker) headerValue(value, index string) {
	path := []string{"headers", index, "value"}
	if len(value) > maxHeaderValue {
		k.add(models.CodeTooLong, path, "the header's value has %d bytes, at most %d are allowed", len(value), maxHeaderValue)
		return
	}
	if err := egress.ValidateHeader("x", value); err != nil {
		k.add(models.CodeInvalid, path, "%s", err.Error())
	}
}
