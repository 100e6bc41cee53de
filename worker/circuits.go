package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/intervengine/webhooks/models"
)

// Circuits reads the webhooks' circuit breakers for the API. It is safe for concurrent use.
type Circuits struct{ redis redis.UniversalClient }

// NewCircuits reads them from where the workers share them.
func NewCircuits(client redis.UniversalClient) *Circuits { return &Circuits{redis: client} }

// Circuits gives the circuit of each webhook, by its id. An open one whose cooldown is over waits for
// a delivery to probe with: HALF_OPEN. Without Redis it is an error.
func (c *Circuits) Circuits(ctx context.Context, webhookIDs []string) (map[string]models.Circuit, error) {
	pipe := c.redis.Pipeline()
	clock := pipe.Time(ctx)
	fields := make([]*redis.SliceCmd, len(webhookIDs))
	for i, id := range webhookIDs {
		fields[i] = pipe.HMGet(ctx, circuitKeys+id, "s", "u")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read circuits: %w", err)
	}
	found := make(map[string]models.Circuit, len(webhookIDs))
	for i, id := range webhookIDs {
		var got struct {
			State string `redis:"s"`
			Until int64  `redis:"u"`
		}
		if err := fields[i].Scan(&got); err != nil {
			return nil, fmt.Errorf("read circuit: %w", err)
		}
		circuit := models.Circuit{State: models.CircuitClosed}
		if until := models.Instant(time.UnixMicro(got.Until)); got.State != "" {
			circuit.State = models.CircuitHalfOpen
			if got.State == "o" && until.After(clock.Val()) {
				circuit.State, circuit.OpenUntil = models.CircuitOpen, &until
			}
		}
		found[id] = circuit
	}
	return found, nil
}
