package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// openStore opens the database that the configuration names, as the server does.
func (p *program) openStore(ctx context.Context, config *app.Config) (*models.Store, error) {
	dsn := config.DatabaseURL
	if dsn == "" {
		dsn = filepath.Join(config.DataDir, app.DatabaseFile)
	}
	store, err := models.Open(ctx, models.Options{DSN: dsn, Logger: newLogger(config, p.stderr)})
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return store, nil
}

// migrate brings the database's schema to this version, under a lock.
func (p *program) migrate() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the database's schema to this version, under a lock", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := p.load(app.RoleAll)
			if err != nil {
				return err
			}
			store, err := p.openStore(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer func() { _ = store.Close() }()
			if err := store.Migrate(cmd.Context()); err != nil {
				return fmt.Errorf("migrate: %w", err)
			}
			if err := store.EnsureBuiltinTypes(cmd.Context(), catalogue.Builtin()); err != nil {
				return fmt.Errorf("write built-in event types: %w", err)
			}
			_, err = fmt.Fprintln(p.stdout, "the schema is up to date")
			return err
		},
	}
}
