package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

// progressEvery is how often a long command says how far it is.
const progressEvery = time.Second

// keysReseal seals what is stored with the first of SECRETS_KEY, so that the others can be left out.
func (p *program) keysReseal() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "reseal", Short: "Seal all stored secrets with the first of SECRETS_KEY", Args: noArgs,
		Long: `Seals every webhook's keys and headers with the first of SECRETS_KEY. It may run beside
servers, and again after it was broken off. To replace a master key without a stop:

  1. give all servers SECRETS_KEY=OLD,NEW
  2. give all servers SECRETS_KEY=NEW,OLD
  3. run this with SECRETS_KEY=NEW,OLD
  4. give all servers SECRETS_KEY=NEW`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := p.load(app.RoleAll)
			if err != nil {
				return err
			}
			keyring, err := app.OpenKeyring(config)
			if err != nil {
				return err
			}
			return p.withStore(cmd, func(store *models.Store) error {
				var said time.Time
				summary, err := control.Reseal(cmd.Context(), control.ResealOptions{
					Store: store, Keyring: keyring,
					Progress: func(s control.ResealSummary) {
						if now := time.Now(); s.Looked == s.Webhooks || now.Sub(said) >= progressEvery {
							said = now
							_, _ = fmt.Fprintf(p.stderr, "%d of %d webhooks, %d sealed anew\n", s.Looked, s.Webhooks, s.Resealed)
						}
					},
				})
				var incomplete *control.ResealError
				if err != nil && !errors.As(err, &incomplete) {
					return fmt.Errorf("reseal: %w", err)
				}
				if asJSON {
					err = errors.Join(err, json.NewEncoder(p.stdout).Encode(summary))
				} else {
					_, _ = fmt.Fprintf(p.stdout, "%d webhooks sealed anew with the master key %s, %d were already, %d could not be opened\n",
						summary.Resealed, summary.PrimaryKey, max(0, summary.Looked-summary.Resealed-summary.Failed), summary.Failed)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
