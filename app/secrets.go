package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/intervengine/webhooks/signing"
)

// masterKeyFile holds the key that seals secrets, where none is given by SECRETS_KEY.
const masterKeyFile = "secrets.key"

// openKeyring gives the master keys: from SECRETS_KEY, else from a file in DATA_DIR that is made
// at the first start. Only the embedded database may live beside its key like that.
func openKeyring(c *Config) (*signing.Keyring, error) {
	if c.SecretsKey != "" {
		keyring, err := signing.ParseKeyring(c.SecretsKey)
		if err != nil {
			return nil, &ConfigError{Problems: []string{"SECRETS_KEY: " + err.Error()}}
		}
		return keyring, nil
	}
	file := filepath.Join(c.DataDir, masterKeyFile)
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own folder
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
