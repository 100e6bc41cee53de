package egress

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestExhausted(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOBUFS: true, syscall.ENOMEM: true,
		syscall.ECONNREFUSED: false, syscall.EHOSTUNREACH: false, syscall.ETIMEDOUT: false,
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			err := fmt.Errorf("dial: %w", &dialError{stageConnect, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)}})
			assert.Equal(t, want, exhausted(err))
		})
	}
}
