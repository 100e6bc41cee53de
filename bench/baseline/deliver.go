package baseline

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hibiken/asynq" //nolint:depguard // it is what the baseline is made of
)

const (
	taskType = "deliver"
	keep     = 16 << 10
)

// deliver attempts the delivery that the task names.
func (s *service) deliver(ctx context.Context, task *asynq.Task) error {
	db := s.db.WithContext(ctx)
	var delivery Delivery
	if err := db.First(&delivery, "id = ?", string(task.Payload())).Error; err != nil {
		return fmt.Errorf("select delivery: %w", err)
	}
	var event Event
	if err := db.First(&event, "id = ?", delivery.EventID).Error; err != nil {
		return fmt.Errorf("select event: %w", err)
	}
	var hook Webhook
	if err := db.First(&hook, "id = ?", delivery.WebhookID).Error; err != nil {
		return fmt.Errorf("select webhook: %w", err)
	}
	began := time.Now()
	status, body, err := s.post(ctx, hook, event)
	attempt := Attempt{
		ID: newID("att"), DeliveryID: delivery.ID, Number: delivery.AttemptCount + 1,
		ResponseStatus: status, ResponseBody: body, Took: time.Since(began), CreatedAt: began,
	}
	delivery.AttemptCount, delivery.Status = attempt.Number, "SUCCEEDED"
	if err != nil || status/100 != 2 {
		attempt.Error, delivery.Status = fmt.Sprint(err), "FAILED"
	}
	if err := db.Create(&attempt).Error; err != nil {
		return fmt.Errorf("insert attempt: %w", err)
	}
	if err := db.Save(&delivery).Error; err != nil {
		return fmt.Errorf("update delivery: %w", err)
	}
	return nil
}

// post sends the event, signed as Standard Webhooks says.
func (s *service) post(ctx context.Context, hook Webhook, event Event) (status int, body string, err error) {
	content, err := json.Marshal(map[string]any{
		"id": event.ID, "type": event.EventType, "timestamp": event.CreatedAt, "data": json.RawMessage(event.Data),
	})
	if err != nil {
		return 0, "", fmt.Errorf("encode: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(content))
	if err != nil {
		return 0, "", fmt.Errorf("make request: %w", err)
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, hook.Secret)
	fmt.Fprintf(mac, "%s.%s.%s", event.ID, stamp, content)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("webhook-id", event.ID)
	request.Header.Set("webhook-timestamp", stamp)
	request.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	response, err := s.client.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("send: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, keep))
	if err != nil {
		return response.StatusCode, "", fmt.Errorf("read response: %w", err)
	}
	return response.StatusCode, string(text), nil
}
