package testenv

import (
	"testing"
	"time"
)

const (
	firstLook   = 5 * time.Millisecond
	longestLook = 250 * time.Millisecond
)

// Eventually asks until the answer is yes, and fails the test with the last state that was described
// when that takes longer than within. It asks at ever longer intervals, a twentieth of the time that
// has passed: what is waited for needs the machine more than the one who waits.
func Eventually(t testing.TB, within time.Duration, ok func() (done bool, state string)) {
	t.Helper()
	began := time.Now()
	for {
		done, state := ok()
		if done {
			return
		}
		waited := time.Since(began)
		if waited >= within {
			t.Fatalf("not within %s: %s", within, state)
		}
		<-time.After(min(max(waited/20, firstLook), longestLook, within-waited))
	}
}
