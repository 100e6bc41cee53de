package intake

import (
	"errors"

	"github.com/intervengine/webhooks/models"
)

// keyProblem turns what the commit says of one event into what its caller can put right.
func keyProblem(err error) error {
	if errors.Is(err, models.ErrIdempotencyMismatch) {
		return models.Problems{{
			Code: models.CodeIdempotencyMismatch, Path: []string{"idempotencyKey"},
			Message: "this idempotency key was used for another event; repeat the same event or use a new key",
		}}
	}
	return err
}
