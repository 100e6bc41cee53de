package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// keys manages API keys on the database itself, for when no key is left to call the API with, and
// the seals of what is stored.
func (p *program) keys() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keys", Short: "Manage API keys and sealed secrets on the database itself", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return &usageError{errors.New("keys needs one of create, list, revoke, reseal")}
		},
	}
	cmd.AddCommand(p.keysCreate(), p.keysList(), p.keysRevoke(), p.keysReseal())
	return cmd
}

// withStore opens the database for one command.
func (p *program) withStore(cmd *cobra.Command, do func(*models.Store) error) error {
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
	return do(store)
}

func (p *program) keysCreate() *cobra.Command {
	var name, tenant, scopes string
	var expires time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use: "create", Short: "Create an API key and print it, once", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			row := models.APIKey{Name: strings.TrimSpace(name)}
			if row.Name == "" || len([]rune(row.Name)) > 200 {
				return &usageError{errors.New("--name: must have 1 to 200 characters")}
			}
			if tenant != "" {
				if !auth.ValidTenant(tenant) {
					return &usageError{fmt.Errorf("--tenant: must have 1 to %d printable characters", auth.MaxTenantLength)}
				}
				row.Tenant = &tenant
			}
			for s := range strings.SplitSeq(scopes, ",") {
				s = strings.ToUpper(strings.TrimSpace(s))
				switch models.Scope(s) {
				case models.ScopeRead, models.ScopeManage, models.ScopeEmit:
				case models.ScopeAdmin:
					if row.Tenant != nil {
						return &usageError{errors.New("--scopes: ADMIN is for platform keys, without --tenant")}
					}
				default:
					return &usageError{fmt.Errorf("--scopes: %q is not a scope; allowed are READ, MANAGE, EMIT and ADMIN", s)}
				}
				row.Scopes = append(row.Scopes, s)
			}
			if expires < 0 {
				return &usageError{errors.New("--expires-in: must not be negative")}
			}
			if expires > 0 {
				until := models.Instant(time.Now().Add(expires))
				row.ExpiresAt = &until
			}
			return p.withStore(cmd, func(store *models.Store) error {
				key, prefix, hash := auth.NewKey()
				row.ID, row.Prefix, row.Hash = models.NewID(models.PrefixAPIKey), prefix, hash
				if err := store.CreateAPIKey(cmd.Context(), &row); err != nil {
					return fmt.Errorf("create key: %w", err)
				}
				if asJSON {
					return json.NewEncoder(p.stdout).Encode(map[string]any{"id": row.ID, "key": key, "scopes": row.Scopes, "tenant": row.Tenant})
				}
				_, err := fmt.Fprintf(p.stdout, "%s  %s\n\n  %s\n\nThis is the only time that it is shown.\n", row.ID, row.Name, key)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what the key is for (required)")
	cmd.Flags().StringVar(&tenant, "tenant", "", "the tenant it belongs to; empty: a platform key")
	cmd.Flags().StringVar(&scopes, "scopes", "READ", "comma-separated: READ, MANAGE, EMIT, ADMIN")
	cmd.Flags().DurationVar(&expires, "expires-in", 0, "how long it is valid, e.g. 720h; 0: until it is revoked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) keysList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List API keys, without the keys themselves", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withStore(cmd, func(store *models.Store) error {
				var all []models.APIKey
				size := models.MaxPageSize
				page := models.Page{First: &size}
				for {
					result, err := store.Tenant(models.Reach{All: true}).APIKeys(cmd.Context(), page)
					if err != nil {
						return fmt.Errorf("list keys: %w", err)
					}
					all = append(all, result.Items...)
					if !result.HasNext {
						break
					}
					page.After = &result.Cursors[len(result.Cursors)-1]
				}
				return p.printKeys(all, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) printKeys(keys []models.APIKey, asJSON bool) error {
	type row struct {
		ID        string     `json:"id"`
		Name      string     `json:"name"`
		Tenant    *string    `json:"tenant"`
		Scopes    []string   `json:"scopes"`
		Prefix    string     `json:"prefix"`
		ExpiresAt *time.Time `json:"expiresAt"`
		RevokedAt *time.Time `json:"revokedAt"`
	}
	rows := make([]row, len(keys))
	for n, k := range keys {
		rows[n] = row{k.ID, k.Name, k.Tenant, k.Scopes, k.Prefix, k.ExpiresAt, k.RevokedAt}
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(rows)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tTENANT\tSCOPES\tPREFIX\tSTATE")
	for _, r := range rows {
		tenant, state := "(platform)", "valid"
		if r.Tenant != nil {
			tenant = *r.Tenant
		}
		switch {
		case r.RevokedAt != nil:
			state = "revoked " + models.FormatTime(*r.RevokedAt)
		case r.ExpiresAt != nil && r.ExpiresAt.Before(time.Now()):
			state = "expired " + models.FormatTime(*r.ExpiresAt)
		case r.ExpiresAt != nil:
			state = "valid until " + models.FormatTime(*r.ExpiresAt)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s…\t%s\n", r.ID, r.Name, tenant, strings.Join(r.Scopes, ","), r.Prefix, state)
	}
	return w.Flush()
}

func (p *program) keysRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Revoke an API key", Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !models.ValidID(models.PrefixAPIKey, args[0]) {
				return &usageError{errors.New("revoke needs one key id, key_…, as keys list shows it")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withStore(cmd, func(store *models.Store) error {
				if _, err := store.RevokeAPIKey(cmd.Context(), args[0]); err != nil {
					return fmt.Errorf("revoke %s: %w", args[0], err)
				}
				_, err := fmt.Fprintln(p.stdout, args[0], "is revoked")
				return err
			})
		},
	}
}
