package worker

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/batch"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// What an attempt waits before it is due again when a fault of ours kept it from starting.
const faultDelay = 5 * time.Second

// deliver makes one attempt of a claimed delivery and sees it recorded. claimed is when the claim
// was asked for, by this process's own clock, which a stopped process cannot fool.
func (w *Worker) deliver(c *models.Claim, claimed time.Time) {
	ctx := context.WithoutCancel(w.attempts)
	key := models.ClaimKey{DeliveryID: c.DeliveryID, Token: c.Token}
	w.running.add(key, claimed)
	defer w.running.remove(key)

	r, err := w.receivers.get(ctx, c.WebhookID, c.WebhookRevision)
	if err != nil {
		// Nothing is ever sent unsigned or to a guess: it waits until the fault is mended.
		w.opt.Logger.ErrorContext(ctx, "webhook not readable, delivery waits", "webhook", c.WebhookID, "delivery", c.DeliveryID, "error", err)
		w.giveBack(ctx, models.Release{DeliveryID: c.DeliveryID, Token: c.Token, After: faultDelay})
		return
	}
	if wait, ok := w.share.take(c.WebhookID); !ok {
		w.giveBack(ctx, models.Release{DeliveryID: c.DeliveryID, Token: c.Token, After: wait})
		return
	}
	started := time.Now()
	if started.Sub(claimed) > startWithin || w.attempts.Err() != nil {
		w.share.give(c.WebhookID, 0)
		w.giveBack(ctx, models.Release{DeliveryID: c.DeliveryID, Token: c.Token})
		return
	}
	request := egress.Request{
		ID: c.EventID, Target: r.target, Headers: r.headers, Timestamp: started, Timeout: r.timeout,
		Body: models.Envelope(c.EventType, c.EventTimestamp, c.Data), Signer: r.signerAt(started), Version: w.opt.Version,
	}
	result := w.opt.Client.Do(w.attempts, request)
	w.share.give(c.WebhookID, result.EndedAt.Sub(result.StartedAt))
	w.metrics.observe(c, result)
	w.write(ctx, w.recordOf(c, r, request, result))
}

// recordOf is what the database is told of an attempt.
func (w *Worker) recordOf(c *models.Claim, r *receiver, request egress.Request, result egress.Result) models.AttemptRecord {
	outcome := models.Outcome(result.Outcome)
	disposition, effect := decide(c, r, result, w.opt.RetryAfterMax)
	if w.attempts.Err() != nil && result.Outcome == egress.Abandoned {
		// A stop ran out of grace: the receiver may or may not have got it, so it is due again now.
		outcome = models.OutcomeAbandoned
		disposition, effect = models.HandedBack(), models.EffectNone
	}
	ended := models.Instant(result.EndedAt)
	a := models.Attempt{
		DeliveryID: c.DeliveryID, Number: c.Number, Tenant: c.Tenant, Token: c.Token, Trigger: c.Trigger,
		StartedAt: models.Instant(result.StartedAt), EndedAt: &ended, Outcome: &outcome,
		RequestURL: r.target.String(), RequestHeaders: shownHeaders(request.ShownHeaders()),
		ResponseTruncated: result.Truncated,
		TotalMicros:       micros(result.Timing.Total), DNSMicros: micros(result.Timing.DNS), ConnectMicros: micros(result.Timing.Connect),
		TLSMicros: micros(result.Timing.TLS), FirstByteMicros: micros(result.Timing.FirstByte),
	}
	if result.Error != "" {
		a.Error = &result.Error
	}
	if result.RemoteAddr != "" {
		a.RemoteAddress = &result.RemoteAddr
	}
	if result.Status != 0 {
		body := string(result.ResponseBody)
		a.ResponseStatus, a.ResponseBody = &result.Status, &body
		a.ResponseHeaders = shownHeaders(result.ResponseHeaders)
	}
	return models.AttemptRecord{Attempt: a, WebhookID: c.WebhookID, EventType: c.EventType, Disposition: disposition, Effect: effect}
}

func micros(d time.Duration) *int64 {
	if d <= 0 {
		return nil
	}
	n := d.Microseconds()
	return &n
}

// write records an attempt. It does not give up while the process lives: an attempt that was
// made must not be forgotten because the database was away for a while.
func (w *Worker) write(ctx context.Context, record models.AttemptRecord) {
	backoff := 50 * time.Millisecond
	for {
		recorded, err := w.recorder.Do(ctx, record)
		if err == nil {
			w.after(recorded)
			return
		}
		w.opt.Logger.WarnContext(ctx, "attempt not recorded yet", "delivery", record.Attempt.DeliveryID, "error", err)
		select {
		case <-w.stopping:
			// Its claim runs out, and the reconciler shows it as abandoned.
			return
		case <-time.After(backoff):
			backoff = min(2*backoff, 2*time.Second)
		}
	}
}

// record is the recorder's flush: one transaction for the outcomes of many attempts.
func (w *Worker) record(ctx context.Context, records []models.AttemptRecord) ([]batchResult, error) {
	recorded, err := w.opt.Store.Record(ctx, records)
	if err != nil {
		return nil, err
	}
	results := make([]batchResult, len(recorded))
	for n := range recorded {
		results[n].Value = recorded[n]
	}
	return results, nil
}

// giveBack returns a claim whose attempt was not started.
func (w *Worker) giveBack(ctx context.Context, release models.Release) {
	recorded, err := w.releaser.Do(ctx, release)
	if err != nil {
		// The claim runs out by itself.
		w.opt.Logger.WarnContext(ctx, "claim not given back", "delivery", release.DeliveryID, "error", err)
		return
	}
	w.after(recorded)
}

func (w *Worker) release(ctx context.Context, releases []models.Release) ([]batchResult, error) {
	recorded, err := w.opt.Store.Release(ctx, releases)
	if err != nil {
		return nil, err
	}
	results := make([]batchResult, len(recorded))
	for n := range recorded {
		results[n].Value = recorded[n]
	}
	return results, nil
}

// after puts the next attempt on the queue, where there is one.
func (w *Worker) after(r models.Recorded) {
	if !r.Applied || r.NextAttemptAt == nil || r.Status != models.DeliveryPending && r.Status != models.DeliveryRetrying {
		return
	}
	w.opt.Queue.EnqueueAsync([]queue.Item{{DeliveryID: r.DeliveryID, Attempt: r.AttemptCount + 1, At: *r.NextAttemptAt}})
}

func shownHeaders(list []egress.ShownHeader) models.Headers {
	out := make(models.Headers, len(list))
	for n, h := range list {
		out[n] = models.Header{Name: h.Name, Value: h.Value, Masked: h.Masked}
	}
	return out
}

type batchResult = batch.Result[models.Recorded]
