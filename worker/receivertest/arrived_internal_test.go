package receivertest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A process that has to wait between its look at the clock and its question does not take that for the request's age.
func TestArrivedIsAskedOfAKernelThatAnswersLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for slow := range 10 {
			came := time.Now()
			<-time.After(300 * time.Millisecond)
			asked := 0
			at, known := arrived(func() (time.Duration, bool) {
				asked++
				if asked <= slow {
					<-time.After(time.Second)
				}
				ago := time.Since(came)
				if asked <= slow {
					<-time.After(100 * time.Millisecond)
				}
				return ago, true
			})
			require.True(t, known)
			require.Equal(t, came, at)
			require.Equal(t, slow+1, asked)
		}
		_, known := arrived(func() (time.Duration, bool) { return 0, false })
		require.False(t, known)
	})
}
