package egress

import (
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// observation is what is seen of one attempt while it runs. Dials call it from
// their own goroutines, also after the attempt has ended.
type observation struct {
	deadline time.Time
	startBy  time.Time   // see Request
	late     atomic.Bool // nothing was written because of it
	wire     int64       // how many bytes of body it may read

	written, answered func() // see Request; nil: nobody wants to know

	mu        sync.Mutex
	timing    Timing
	remote    string
	connected bool // a connection was handed to the request
	reused    bool
	begun     bool // net/http began to write the request
	conn      *meteredConn
	before    int64 // bytes written on conn before the request
	sent      time.Time
}

// trace watches what only net/http can tell. Got1xxResponse stays unset: setting
// it would reset the limit of header bytes at every 1xx response.
func (o *observation) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn:              o.gotConn,
		WroteHeaderField:     func(string, []string) { o.wroteHeader() },
		WroteRequest:         o.wroteRequest,
		GotFirstResponseByte: o.firstByte,
	}
}

func (o *observation) gotConn(info httptrace.GotConnInfo) {
	conn := metered(info.Conn)
	if conn != nil {
		if info.Reused {
			conn.rest(o.deadline)
		}
		conn.grant(o.wire)
		o.limitStart(conn, info.Reused)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connected, o.reused, o.begun = true, info.Reused, false
	o.remote = info.Conn.RemoteAddr().String()
	o.sent = time.Now()
	if o.conn = conn; conn != nil {
		o.before = conn.written.Load()
	}
}

// limitStart lets the connection refuse a request that is too late. What a process finds when it goes on after
// it was stopped may be both a connection that is there and a time that is over, and either may be seen first.
func (o *observation) limitStart(conn *meteredConn, reused bool) {
	if o.startBy.IsZero() || conn.streams {
		return
	}
	by := o.startBy
	if within := time.Now().Add(writeWithin); !reused && by.Before(within) {
		by = within
	}
	if by.After(o.deadline) {
		by = o.deadline
	}
	conn.start.Store(&start{by: by, late: &o.late})
}

func (o *observation) wroteHeader() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun = true
}

func (o *observation) wroteRequest(info httptrace.WroteRequestInfo) {
	o.mu.Lock()
	tell := o.written
	if info.Err != nil || tell == nil {
		o.mu.Unlock()
		return
	}
	o.written = nil
	o.mu.Unlock()
	tell()
}

func (o *observation) firstByte() {
	o.mu.Lock()
	if o.timing.FirstByte == 0 {
		o.timing.FirstByte = time.Since(o.sent)
	}
	tell := o.answered
	o.answered = nil
	o.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// phase records how long a part of making a connection took.
func (o *observation) phase(part stage, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch part {
	case stageDNS:
		o.timing.DNS = took
	case stageConnect:
		o.timing.Connect = took
	case stageTLS:
		o.timing.TLS = took
	}
}

func (o *observation) dialling(address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.connected {
		o.remote = address
	}
}

// untouched reports that the request met a connection which the receiver had
// closed while it was idle, and that no byte of the request was written: only
// then may it be sent on another connection.
func (o *observation) untouched() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.connected || !o.reused {
		return false
	}
	return !o.begun || (o.conn != nil && o.conn.written.Load() == o.before)
}

// finish returns what was seen. A connection that was made for another attempt
// has no phases in this one.
func (o *observation) finish() (timing Timing, remote string, connected bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	timing = o.timing
	if o.reused {
		timing.DNS, timing.Connect, timing.TLS = 0, 0, 0
	}
	return timing, o.remote, o.connected
}
