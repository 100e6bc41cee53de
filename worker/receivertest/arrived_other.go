//go:build !linux

package receivertest

import (
	"net"
	"time"
)

// sinceData is not known here.
func sinceData(net.Conn) (since time.Duration, known bool) { return 0, false }
