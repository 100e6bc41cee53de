package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
)

// healthcheck asks the running process whether it is ready, for containers without curl.
func (p *program) healthcheck() *cobra.Command {
	var url string
	var role string
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Ask the running server whether it is ready; exit code 0 when it is", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url == "" {
				config, err := p.load(app.Role(role))
				if err != nil {
					return err
				}
				host, port, err := net.SplitHostPort(config.ListenAddr)
				if err != nil {
					return fmt.Errorf("read LISTEN_ADDR: %w", err)
				}
				if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
					host = "127.0.0.1"
				}
				url = "http://" + net.JoinHostPort(host, port) + "/readyz"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return &usageError{fmt.Errorf("--url: %w", err)}
			}
			response, err := (&http.Client{}).Do(request)
			if err != nil {
				return fmt.Errorf("not reachable: %w", err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
			if err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			_, _ = p.stdout.Write(body)
			if response.StatusCode != http.StatusOK {
				return errors.New("not ready: " + response.Status)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "address of /readyz; default: from LISTEN_ADDR")
	cmd.Flags().StringVar(&role, "role", string(app.RoleAll), "role of the process asked, for its default port: all, api or worker")
	return cmd
}
