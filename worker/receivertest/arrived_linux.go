package receivertest

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sinceData is how long ago the kernel got the latest data of the connection, to about a clock tick (4 ms
// as a rule). See tcp(7), TCP_INFO.
func sinceData(conn net.Conn) (since time.Duration, known bool) {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = over.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	if controlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); controlErr != nil || err != nil {
		return 0, false
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond, true
}
