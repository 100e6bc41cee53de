package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// masterKeyFile holds the key that seals secrets, where none is given by SECRETS_KEY.
const masterKeyFile = "secrets.key"

// OpenKeyring gives the master keys: from SECRETS_KEY, else from a file in DATA_DIR that is made
// at the first start. Only the embedded database may live beside its key like that.
func OpenKeyring(c *Config) (*signing.Keyring, error) {
	if c.SecretsKey != "" {
		keyring, err := signing.ParseKeyring(c.SecretsKey)
		if err != nil {
			return nil, &ConfigError{Problems: []string{"SECRETS_KEY: " + err.Error()}}
		}
		return keyring, nil
	}
	file := filepath.Join(c.DataDir, masterKeyFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return createMasterKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	keyring, err := signing.ParseKeyring(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("master key in %s: %w", file, err)
	}
	return keyring, nil
}

// createMasterKey writes a new key so that it is there whole or not at all: a half-written key
// would make every secret sealed later unreadable.
func createMasterKey(file string) (*signing.Keyring, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	key := signing.GenerateMasterKey()
	f, err := os.CreateTemp(filepath.Dir(file), masterKeyFile+".*")
	if err != nil {
		return nil, fmt.Errorf("create master key: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(key + "\n")
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		// Link refuses to replace a key that another process made meanwhile.
		err = os.Link(f.Name(), file)
	}
	if err != nil {
		return nil, fmt.Errorf("write master key: %w", err)
	}
	return signing.ParseKeyring(key)
}

// checkSeals refuses to start with master keys that cannot open what is stored: deliveries would
// wait for a signature that never comes. Within one statement's time it looks at all of it; where
// that is not enough, it is logged and the start goes on.
func (a *App) checkSeals(ctx context.Context) error {
	found, ok, err := a.store.SealedOutside(ctx, a.keyring.SealedPrefixes())
	var unavailable *models.UnavailableError
	switch {
	case errors.As(err, &unavailable):
		a.logger.WarnContext(ctx, "whether the master keys open what is stored was not checked", "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("check master keys: %w", err)
	case !ok:
		return nil
	}
	known := a.keyring.IDs()
	var missing string
	for _, text := range []string{found.SealedKey, found.SealedPreviousKey, found.SealedHeaders} {
		if id := signing.SealedID(text); id != "" && !slices.Contains(known, id) {
			missing = id
		}
	}
	where, add := "SECRETS_KEY", "add it after the first, separated by a comma"
	if a.options.Config.SecretsKey == "" {
		where = "SECRETS_KEY: not set, and " + filepath.Join(a.options.Config.DataDir, masterKeyFile)
		add = "put the file back that belongs to this database, or set SECRETS_KEY"
	}
	if missing == "" {
		return fmt.Errorf("secrets of webhook %s in the database are damaged: they are not sealed text", found.WebhookID)
	}
	return &ConfigError{Problems: []string{fmt.Sprintf(
		"%s: holds the master key %s and not %s, which sealed secrets in the database; %s", where, strings.Join(known, ", "), missing, add)}}
}
