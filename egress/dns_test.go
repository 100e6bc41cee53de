package egress_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// nameServer is a real name server on loopback: answer decides for each question
// of type A; nil is silence.
type nameServer struct {
	answer  func(asked int) *dnsAnswer
	asked   atomic.Int64
	address string // of UDP
	tcp     string
	closing context.Context
}

type dnsAnswer struct {
	code  dnsmessage.RCode
	addrs []string
}

func newNameServer(t *testing.T, answer func(asked int) *dnsAnswer) *nameServer {
	t.Helper()
	closing, closed := context.WithCancel(context.Background())
	s := &nameServer{answer: answer, closing: closing}
	udp, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = udp.LocalAddr().String()
	tcp, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.tcp = tcp.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			if reply := s.reply(buffer[:n], 512); reply != nil {
				_, _ = udp.WriteTo(reply, from)
			}
		}
	})
	serving.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serveTCP(conn) })
		}
	})
	t.Cleanup(func() {
		closed()
		_ = udp.Close()
		_ = tcp.Close()
		serving.Wait()
	})
	return s
}

func (s *nameServer) serveTCP(conn net.Conn) {
	defer conn.Close()
	var size [2]byte
	for {
		if _, err := conn.Read(size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := conn.Read(query); err != nil {
			return
		}
		if reply := s.reply(query, 65535); reply != nil {
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	}
}

func (s *nameServer) reply(query []byte, limit int) []byte {
	var message dnsmessage.Message
	if message.Unpack(query) != nil || len(message.Questions) != 1 {
		return nil
	}
	question := message.Questions[0]
	answer := &dnsAnswer{}
	if question.Type == dnsmessage.TypeA {
		answer = s.answer(int(s.asked.Add(1)))
	} else if first := s.answer(1); first == nil || first.code != 0 {
		answer = first
	}
	if answer == nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: message.ID, Response: true, RCode: answer.code, RecursionAvailable: true, RecursionDesired: true},
		Questions: message.Questions,
	}
	for _, addr := range answer.addrs {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
		})
	}
	packed, err := reply.Pack()
	if err == nil && len(packed) > limit {
		reply.Answers, reply.Truncated = nil, true
		packed, err = reply.Pack()
	}
	if err != nil {
		return nil
	}
	return packed
}

// lookup resolves with Go's own resolver through this server.
func (s *nameServer) lookup(options *egress.Options) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if s.closing.Err() != nil {
			return nil, s.closing.Err()
		}
		address := s.address
		if network == "tcp" {
			address = s.tcp
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			// Go's resolver goes on after its caller gave up, for as long as a silent
			// server lets it; the test ends before.
			context.AfterFunc(s.closing, func() { _ = conn.Close() })
		}
		return conn, err
	}}
	options.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return resolver.LookupNetIP(ctx, "ip", host+".")
	}
}

func always(code dnsmessage.RCode, addrs ...string) func(int) *dnsAnswer {
	return func(int) *dnsAnswer { return &dnsAnswer{code, addrs} }
}

func TestNameServers(t *testing.T) {
	t.Parallel()
	many := make([]string, 500)
	for i := range many {
		many[i] = "127.0.0.1"
	}
	tests := map[string]struct {
		answer  func(int) *dnsAnswer
		timeout time.Duration
		want    egress.Outcome
		says    string
	}{
		"good":                        {always(dnsmessage.RCodeSuccess, "127.0.0.1"), ample, egress.Success, ""},
		"500 answers":                 {always(dnsmessage.RCodeSuccess, many...), ample, egress.Success, ""},
		"no such name":                {always(dnsmessage.RCodeNameError), ample, egress.DNSError, "does not exist"},
		"server failure":              {always(dnsmessage.RCodeServerFailure), ample, egress.DNSError, "could not be resolved"},
		"no address":                  {always(dnsmessage.RCodeSuccess), ample, egress.DNSError, "does not exist"},
		"silent":                      {func(int) *dnsAnswer { return nil }, short, egress.Timeout, "while"},
		"private":                     {always(dnsmessage.RCodeSuccess, "10.0.0.1"), ample, egress.BlockedTarget, "not a public one"},
		"metadata":                    {always(dnsmessage.RCodeSuccess, "169.254.169.254"), ample, egress.BlockedTarget, "not a public one"},
		"mixed":                       {always(dnsmessage.RCodeSuccess, "127.0.0.1", "10.0.0.1"), ample, egress.BlockedTarget, "not a public one"},
		"private behind many allowed": {always(dnsmessage.RCodeSuccess, append(many[:100:100], "192.168.0.1")...), ample, egress.BlockedTarget, "not a public one"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newNameServer(t, test.answer)
			receiver := receivertest.New(t)
			result := do(t, newClient(t, receiver, server.lookup), newRequest(t, receiver.NamedURL(), test.timeout))
			require.Equal(t, test.want, result.Outcome, result.Error)
			require.Contains(t, result.Error, test.says)
			require.NotContains(t, result.Error, server.address, "the name server is the operator's affair")
			if test.want != egress.Success {
				require.Zero(t, receiver.Connections())
				require.Empty(t, result.RemoteAddr)
			}
		})
	}
}

// A name that turns to a private address between two attempts is caught at the
// second one, whatever was allowed before.
func TestRebindingIsBlocked(t *testing.T) {
	t.Parallel()
	server := newNameServer(t, func(asked int) *dnsAnswer {
		if asked == 1 {
			return &dnsAnswer{addrs: []string{"127.0.0.1"}}
		}
		return &dnsAnswer{addrs: []string{"10.0.0.1"}}
	})
	receiver := receivertest.New(t, receivertest.Default(receivertest.Status(200, "Connection", "close")))
	client := newClient(t, receiver, server.lookup)
	require.Equal(t, egress.Success, do(t, client, newRequest(t, receiver.NamedURL(), ample)).Outcome)
	result := do(t, client, newRequest(t, receiver.NamedURL(), ample))
	require.Equal(t, egress.BlockedTarget, result.Outcome)
	require.NotContains(t, result.Error, "10.0.0.1")
	require.Equal(t, 1, receiver.Connections())
}

// An address that does not answer does not keep the next one from being tried.
func TestNextAddressIsTried(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := newClient(t, receiver, func(o *egress.Options) {
		o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
		}
	})
	result := do(t, client, newRequest(t, receiver.NamedURL(), ample))
	require.Equal(t, egress.Success, result.Outcome, result.Error)
	require.Equal(t, receiver.AddrPort().String(), result.RemoteAddr)
}

func TestBlockedLiteralsAreNeverDialled(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := newClient(t, receiver, func(o *egress.Options) { o.Guard = egress.NewGuard(nil) })
	for _, url := range []string{receiver.URL(), receiver.NamedURL(), "http://[::1]:80/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/"} {
		result := do(t, client, newRequest(t, url, ample))
		require.Equal(t, egress.BlockedTarget, result.Outcome, url)
		require.Empty(t, result.RemoteAddr)
	}
	require.Zero(t, receiver.Connections())
}
