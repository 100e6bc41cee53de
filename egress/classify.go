package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// verdict is what is known beside the error that ended an attempt.
type verdict struct {
	expired   bool // the attempt's time has run out
	abandoned bool // the caller's context ended before
	connected bool
	status    int
	timeout   time.Duration
}

// classify names what ended an attempt and describes it to a person. What ran out
// comes first: a broken read is only how the end of the time looks from below.
func classify(err error, v verdict) (Outcome, string) {
	var blocked *BlockedError
	var dialed *dialError
	var alert tls.AlertError
	switch {
	case v.abandoned:
		return Abandoned, "The attempt was given up before the receiver answered."
	case errors.As(err, &blocked):
		return BlockedTarget, "The target's address is not a public one; nothing was sent."
	case v.expired:
		return Timeout, describeTimeout(err, v)
	case errors.As(err, &dialed):
		switch dialed.stage {
		case stageDNS:
			return DNSError, describeDNS(dialed.err)
		case stageTLS:
			return TLSError, describeTLS(dialed.err)
		case stageConnect:
			return ConnectError, describeConnect(dialed.err)
		}
	case errors.As(err, &alert):
		return TLSError, "The receiver refused the TLS connection: " + clip(alert.Error()) + "."
	case !v.connected:
		return ConnectError, describeConnect(err)
	}
	return ResponseError, describeResponse(err, v)
}

// exhausted reports that this process or its machine ran out of what a connection needs.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM)
}

func describeStatus(status int) string {
	text := http.StatusText(status)
	if text != "" {
		text = " " + text
	}
	if status >= 300 && status < 400 {
		return fmt.Sprintf("The receiver answered %d%s; redirects are not followed.", status, text)
	}
	return fmt.Sprintf("The receiver answered %d%s.", status, text)
}

func describeTimeout(err error, v verdict) string {
	var dialed *dialError
	doing := "waiting for the receiver's answer"
	switch {
	case v.status != 0:
		doing = "reading the receiver's response"
	case errors.As(err, &dialed) && dialed.stage == stageDNS:
		doing = "resolving the target's name"
	case errors.As(err, &dialed) && dialed.stage == stageTLS:
		doing = "waiting for the TLS handshake"
	case !v.connected:
		doing = "connecting to the receiver"
	}
	return fmt.Sprintf("The attempt's %s ran out while %s.", v.timeout, doing)
}

// describeDNS leaves out the name server, whose address is the operator's affair.
func describeDNS(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "The target's host name does not exist."
	case errors.As(err, &dns) && dns.IsTimeout:
		return "The target's host name could not be resolved: the name server did not answer."
	default:
		return "The target's host name could not be resolved."
	}
}

func describeConnect(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return "No connection to the receiver: " + errno.Error() + "."
	}
	return "No connection to the receiver."
}

func describeTLS(err error) string {
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var certificate *tls.CertificateVerificationError
	var host x509.HostnameError
	switch {
	case errors.As(err, &record):
		return "The receiver does not speak TLS on this port."
	case errors.As(err, &alert):
		return "The receiver refused the TLS connection: " + clip(alert.Error()) + "."
	case errors.As(err, &host):
		return "The receiver's certificate is not valid for the target's host."
	case errors.As(err, &certificate):
		return "The receiver's certificate is not trusted: " + clip(certificate.Err.Error()) + "."
	case isEnd(err):
		return "The receiver closed the connection during the TLS handshake."
	default:
		return "The TLS handshake with the receiver failed: " + clip(err.Error()) + "."
	}
}

func describeResponse(err error, v verdict) string {
	switch {
	case errors.Is(err, errFlood):
		return "The receiver sent far more than an answer; the connection was closed."
	case v.status != 0:
		return fmt.Sprintf("The receiver answered %d, but its response broke off.", v.status)
	case strings.Contains(err.Error(), "headers exceeded"), strings.Contains(err.Error(), "too large"):
		return "The receiver's response headers are too long."
	case isEnd(err):
		return "The receiver closed the connection without an answer."
	default:
		return "The receiver's answer is not a valid HTTP response."
	}
}

// isEnd reports that the other side closed or reset the connection.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) ||
		strings.Contains(err.Error(), "server closed idle connection") ||
		strings.Contains(err.Error(), "http2: ") || strings.Contains(err.Error(), "stream error: ")
}

// clip bounds text that a receiver has a say in, such as names in certificates.
func clip(text string) string { return strings.TrimSuffix(cut(text, 200), ".") }
