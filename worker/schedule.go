package worker

import (
	"math/rand/v2"
	"time"
)

// jitter is the share by which a retry may come earlier or later than its schedule says, so
// that deliveries that failed together do not come back together.
const jitter = 0.1

// retryDelay is the wait before the attempt that follows the one which used up step, and
// whether there is one at all.
func retryDelay(schedule []time.Duration, step int) (time.Duration, bool) {
	if step < 0 || step >= len(schedule) {
		return 0, false
	}
	spread := 1 - jitter + 2*jitter*rand.Float64() //nolint:gosec // spreading load, not guarding anything
	return time.Duration(float64(schedule[step]) * spread), true
}
