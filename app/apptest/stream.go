package apptest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// Transport is what carries a subscription.
type Transport string

// The transports of subscriptions.
const (
	WebSocket Transport = "websocket"
	Events    Transport = "events"
)

// Result is what came for a subscription: an update, or its end.
type Result struct {
	Data   json.RawMessage `json:"data"`
	Errors []struct {
		Message    string         `json:"message"`
		Path       []any          `json:"path"`
		Extensions map[string]any `json:"extensions"`
	} `json:"errors"`
	// Complete says that the server ended the subscription; Lost that the connection ended first.
	Complete bool  `json:"-"`
	Lost     error `json:"-"`
}

// Codes are the codes of the result's errors, in order.
func (r Result) Codes() []string {
	var codes []string
	for _, e := range r.Errors {
		code, _ := e.Extensions["code"].(string)
		codes = append(codes, code)
	}
	return codes
}

// Stream is a subscription that a test follows. What comes is kept until it is asked for.
type Stream struct {
	results chan Result
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// Close ends the subscription by closing its connection.
func (s *Stream) Close() {
	s.cancel()
	s.done.Wait()
}

// Next waits for what comes next.
func (s *Stream) Next(t testing.TB) Result {
	t.Helper()
	select {
	case r, ok := <-s.results:
		if !ok {
			return Result{Lost: io.EOF}
		}
		return r
	case <-time.After(deadline):
		t.Fatalf("no update within %s", deadline)
		return Result{}
	}
}

// Into waits for an update, which must have no errors, and reads its data into out.
func (s *Stream) Into(t testing.TB, out any) {
	t.Helper()
	r := s.Next(t)
	require.NoError(t, r.Lost)
	require.Empty(t, r.Errors)
	require.False(t, r.Complete)
	require.NoError(t, json.Unmarshal(r.Data, out), "%s", r.Data)
}

// Follow makes a subscription on a connection of its own and returns once nothing is missed any more,
// or once the server has refused it, which Next then tells.
func (c *Client) Follow(t testing.TB, by Transport, query string, variables map[string]any) *Stream {
	t.Helper()
	s, err := c.TryFollow(by, query, variables)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// TryFollow is Follow where the server may be away. The stream must be closed.
func (c *Client) TryFollow(by Transport, query string, variables map[string]any) (*Stream, error) {
	payload, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{results: make(chan Result, 100_000), cancel: cancel}
	open := c.followSocket
	if by == Events {
		open = c.followEvents
	}
	if err := open(ctx, s, payload); err != nil {
		cancel()
		s.done.Wait()
		return nil, err
	}
	return s, nil
}

func (c *Client) followSocket(ctx context.Context, s *Stream, payload []byte) error {
	socket, err := c.Dial(ctx, nil)
	if err != nil {
		return err
	}
	// Before anybody receives: what is received is answered, and a socket has one sender.
	credentials := fmt.Appendf(nil, `{"Authorization":%q}`, "Bearer "+c.Key)
	if err := socket.Send(Message{Type: "connection_init", Payload: credentials}); err != nil {
		_ = socket.Close()
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	begun := make(chan error, 1)
	s.done.Go(func() {
		defer close(s.results)
		defer stop()
		defer func() { _ = socket.Close() }()
		for {
			m, err := socket.Receive()
			switch {
			case err != nil:
				s.results <- Result{Lost: err}
				begun <- err
				return
			case m.Type == "connection_ack":
				// The pong to a ping says that what was before it has begun.
				err = socket.Send(Message{Type: "subscribe", ID: "1", Payload: payload})
				if err == nil {
					err = socket.Send(Message{Type: "ping"})
				}
				if err != nil {
					begun <- err
				}
			case m.Type == "pong":
				begun <- nil
			default:
				s.results <- m.Result()
			}
		}
	})
	return <-begun
}

func (c *Client) followEvents(ctx context.Context, s *Stream, payload []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/graphql", bytes.NewReader(payload))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Authorization", "Bearer "+c.Key)
	// Without the client's own deadline: a stream has none.
	response, err := c.HTTP.Transport.RoundTrip(request)
	if err != nil {
		return err
	}
	s.done.Go(func() {
		defer close(s.results)
		defer func() { _ = response.Body.Close() }()
		if !strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
			var r Result
			_ = json.NewDecoder(response.Body).Decode(&r)
			s.results <- r
			return
		}
		lines := bufio.NewReader(response.Body)
		event, data := "", ""
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				s.results <- Result{Lost: err}
				return
			}
			line = strings.TrimSuffix(line, "\n")
			switch {
			case line == "" && event == "next":
				s.results <- Message{Type: "next", Payload: []byte(data)}.Result()
				event, data = "", ""
			case line == "" && event == "complete":
				s.results <- Result{Complete: true}
				return
			case line == "", strings.HasPrefix(line, ":"):
			default:
				name, value, _ := strings.Cut(line, ": ")
				if name == "event" {
					event = value
				} else {
					data += value
				}
			}
		}
	})
	return nil
}

// Message is one of graphql-transport-ws.
type Message struct {
	Type    string          `json:"type"`
	ID      string          `json:"id,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Result is what a message means for its subscription.
func (m Message) Result() Result {
	var r Result
	payload := []byte(m.Payload)
	switch m.Type {
	case "complete":
		return Result{Complete: true}
	case "error":
		payload = append(append([]byte(`{"errors":`), payload...), '}')
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return Result{Lost: fmt.Errorf("message %s: %w", m.Type, err)}
	}
	return r
}

// Socket is a WebSocket that speaks graphql-transport-ws, for one sender and one receiver.
type Socket struct {
	*websocket.Conn
}

// Dial opens a WebSocket, with what header adds to the handshake.
func (c *Client) Dial(ctx context.Context, header http.Header) (*Socket, error) {
	dialer := websocket.Dialer{HandshakeTimeout: deadline, Subprotocols: []string{"graphql-transport-ws"}}
	conn, response, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(c.URL, "http")+"/graphql", header)
	if response != nil {
		_ = response.Body.Close()
	}
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("status %d: %w", response.StatusCode, err)
		}
		return nil, err
	}
	return &Socket{conn}, nil
}

// Send sends a message.
func (s *Socket) Send(m Message) error { return s.WriteJSON(m) }

// Receive waits for a message, at most as long as a test waits for anything.
func (s *Socket) Receive() (Message, error) {
	var m Message
	if err := s.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		return m, err
	}
	err := s.ReadJSON(&m)
	return m, err
}
