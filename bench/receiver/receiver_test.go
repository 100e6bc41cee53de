package receiver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/bench/receiver"
)

func TestReceiverCountsEachIDOnce(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(receiver.New())
	t.Cleanup(server.Close)
	ask := func(ctx context.Context, method, path, id string) (string, error) {
		request, err := http.NewRequestWithContext(ctx, method, server.URL+path, strings.NewReader("{}"))
		if err != nil {
			return "", err
		}
		request.Header.Set("webhook-id", id)
		response, err := server.Client().Do(request)
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	began := time.Now().UnixNano()
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			if _, err := ask(t.Context(), http.MethodPost, "/ok/a", fmt.Sprintf("evt_%d", n%80)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	_, err := ask(t.Context(), http.MethodPost, "/ok/b", "evt_0")
	require.NoError(t, err)
	ended := time.Now().UnixNano()

	var distinct, repeated int
	var last int64
	body, err := ask(t.Context(), http.MethodGet, "/-/count?path=/ok/a", "")
	require.NoError(t, err)
	_, err = fmt.Sscan(body, &distinct, &repeated, &last)
	require.NoError(t, err)
	require.Equal(t, 80, distinct)
	require.Equal(t, 20, repeated)
	require.GreaterOrEqual(t, last, began)
	require.LessOrEqual(t, last, ended)

	body, err = ask(t.Context(), http.MethodGet, "/-/arrivals?path=/ok/a", "")
	require.NoError(t, err)
	require.Len(t, strings.Split(strings.TrimSpace(body), "\n"), 80)

	_, err = ask(t.Context(), http.MethodGet, "/-/reset", "")
	require.NoError(t, err)
	body, err = ask(t.Context(), http.MethodGet, "/-/count?path=/ok/a", "")
	require.NoError(t, err)
	require.Equal(t, "0 0 0\n", body)
}

func TestReceiverHangsUntilTheSenderGivesUp(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(receiver.New())
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/hang/a", strings.NewReader("{}"))
	require.NoError(t, err)
	response, err := server.Client().Do(request)
	if err == nil {
		require.NoError(t, response.Body.Close())
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
