package worker

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
)

// What a receiver may say in the response header webhook-delivery.
const (
	sayDisable = "disable"
	sayAbort   = "abort-message"
)

// said is what the receiver asked for beyond its status.
func said(result egress.Result) string {
	return strings.ToLower(strings.TrimSpace(result.WebhookDelivery))
}

// verdictOf says what an attempt's result tells the circuit breaker.
func verdictOf(result egress.Result) verdict {
	switch result.Outcome {
	case egress.Success:
		return tellsWell
	case egress.Abandoned, egress.BlockedTarget:
		return tellsNothing
	case egress.HTTPError, egress.Timeout, egress.DNSError, egress.ConnectError, egress.TLSError, egress.ResponseError:
	}
	if said(result) == sayAbort {
		return tellsNothing
	}
	return tellsBroken
}

// decide says what an attempt's result means for its delivery.
func decide(c *models.Claim, r *receiver, result egress.Result, retryAfterMax time.Duration) (models.Disposition, models.WebhookEffect) {
	if result.Outcome == egress.Abandoned {
		// A stop ran out of grace: the receiver may or may not have got it, so it is due again now.
		return models.HandedBack(), models.EffectNone
	}
	gone := result.Status == http.StatusGone || said(result) == sayDisable
	effect := models.EffectNone
	if gone {
		effect = models.EffectGone
	}
	switch {
	case result.Outcome == egress.Success:
		return models.Succeeded(), effect
	case gone:
		return models.Ended(models.DeliveryCancelled, models.ReasonGone, "The receiver said that it is gone; its webhook was disabled."), effect
	case said(result) == sayAbort:
		return models.Ended(models.DeliveryCancelled, models.ReasonAbortedByReceiver, "The receiver asked for this delivery to be given up."), effect
	case c.Trigger == models.TriggerTest:
		return models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "A test is attempted once."), effect
	}
	delay, more := retryDelay(r.schedule, c.ScheduleStep)
	if !more {
		detail := "The only attempt failed; the webhook has no retries."
		if len(r.schedule) > 0 {
			detail = fmt.Sprintf("All %d attempts of the retry schedule failed.", len(r.schedule)+1)
		}
		return models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, detail), effect
	}
	if result.Status == http.StatusTooManyRequests || result.Status == http.StatusServiceUnavailable {
		if asked, ok := egress.ParseRetryAfter(result.RetryAfter, result.EndedAt, retryAfterMax); ok {
			delay = asked
		}
	}
	return models.RetryAfter(delay), effect
}
