package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCallerReadsWhatNetHTTPAnswers(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	seen := make(chan *http.Request, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		seen <- r
		switch r.URL.Path {
		case "/refuses":
			w.WriteHeader(http.StatusTeapot)
		case "/chunked":
			_, _ = io.WriteString(w, "first ")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "second")
		default:
			_, _ = w.Write(body)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	addr := strings.TrimPrefix(server.URL, "http://")
	c := &caller{addr: addr}
	t.Cleanup(c.close)

	request, err := post(addr, "/echo", "a key", map[string]int{"n": 1})
	require.NoError(t, err)
	before := time.Now()
	body, sent, err := c.call(request)
	require.NoError(t, err)
	require.JSONEq(t, `{"n": 1}`, string(body))
	require.False(t, sent.Before(before))
	got := <-seen
	require.Equal(t, "Bearer a key", got.Header.Get("Authorization"))
	require.Equal(t, "application/json", got.Header.Get("Content-Type"))

	request, err = post(addr, "/chunked", "", nil)
	require.NoError(t, err)
	body, _, err = c.call(request)
	require.NoError(t, err)
	require.Equal(t, "first second", string(body))
	require.Empty(t, (<-seen).Header.Get("Authorization"))
	require.EqualValues(t, 1, connections.Load(), "the connection is kept")

	request, err = post(addr, "/refuses", "", nil)
	require.NoError(t, err)
	_, _, err = c.call(request)
	require.ErrorContains(t, err, "418")
	request, err = post(addr, "/echo", "", "again")
	require.NoError(t, err)
	body, _, err = c.call(request)
	require.NoError(t, err, "after an error it dials anew")
	require.JSONEq(t, `"again"`, string(body))
}

func TestEmissionsReadTheirAnswers(t *testing.T) {
	t.Parallel()
	s := &subject{addr: "127.0.0.1:1", key: "key"}
	for name, c := range map[string]struct {
		count  int
		answer string
		want   []string
	}{
		"one":     {1, `{"data":{"emitEvent":{"event":{"id":"evt_1"},"userErrors":[]}}}`, []string{"evt_1"}},
		"many":    {2, `{"data":{"emitEvents":{"results":[{"event":{"id":"evt_1"}},{"event":{"id":"evt_2"}}]}}}`, []string{"evt_1", "evt_2"}},
		"refused": {1, `{"data":{"emitEvent":{"event":null,"userErrors":[{"message":"no"}]}}}`, nil},
		"failed":  {1, `{"data":{"emitEvent":null},"errors":[{"message":"no"}]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := s.emitGraphQL("participant.created", c.count)
			require.NoError(t, err)
			require.Equal(t, c.count, e.events)
			got, err := e.ids([]byte(c.answer), nil)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			_, body, found := strings.Cut(string(e.request), "\r\n\r\n")
			require.True(t, found)
			require.True(t, json.Valid([]byte(body)))
		})
	}
}
