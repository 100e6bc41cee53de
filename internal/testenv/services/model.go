package services

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Making a cluster, or a database with a schema, costs more than most tests do. So the processes of a
// run make each once and copy it. What they share lies in a directory that the run makes and deletes,
// and the names of databases that they share in a server that may outlive it lie there too.

const (
	modelsDir       = "models"
	modelCluster    = "cluster"
	modelDatabases  = "database-"
	modelsDirAccess = 0o711 // the account of Postgres passes through
)

// MakeModelsDir makes the directory in the scratch directory of a run, which deletes that.
func MakeModelsDir(scratch string) error {
	path := filepath.Join(scratch, modelsDir)
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("make directory of models: %w", err)
	}
	if err := os.Chmod(path, modelsDirAccess); err != nil {
		return fmt.Errorf("open directory of models: %w", err)
	}
	return nil
}

// models is the directory, or empty where no run will delete it.
func models() string {
	scratch := os.Getenv(ScratchEnv)
	if scratch == "" {
		return ""
	}
	path := filepath.Join(scratch, modelsDir)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// KeepModelDatabase notes a database in the run's server that tests copy, for DropModelDatabases. It
// reports false where there is no run to drop it: then the caller makes none.
func KeepModelDatabase(name string) (bool, error) {
	dir := models()
	if dir == "" {
		return false, nil
	}
	if err := os.WriteFile(filepath.Join(dir, modelDatabases+name), nil, 0o600); err != nil {
		return false, fmt.Errorf("note model database: %w", err)
	}
	return true, nil
}

// DropModelDatabases drops in the server that the URL names what the run's processes noted.
func DropModelDatabases(ctx context.Context, url string) (err error) {
	noted, err := filepath.Glob(filepath.Join(models(), modelDatabases+"*"))
	if err != nil || len(noted) == 0 {
		return err
	}
	connection, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("drop model databases: %w", err)
	}
	defer func() { err = errors.Join(err, connection.Close(ctx)) }()
	for _, path := range noted {
		name := filepath.Base(path)[len(modelDatabases):]
		if _, err := connection.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("drop model database: %w", err)
		}
	}
	return nil
}

// clusterModel is a directory with a cluster that has never run, and its password; empty where there
// is no run to delete it.
func clusterModel(ctx context.Context, source Source, credential *syscall.Credential) (string, error) {
	dir := models()
	if dir == "" {
		return "", nil
	}
	model := filepath.Join(dir, modelCluster)
	if _, err := os.Stat(model); err == nil {
		return model, nil
	}
	draft, err := os.MkdirTemp(dir, "draft-")
	if err != nil {
		return "", fmt.Errorf("make model cluster: %w", err)
	}
	if err := os.Chmod(draft, modelsDirAccess); err != nil {
		return "", fmt.Errorf("make model cluster: %w", err)
	}
	home, err := handOver(draft, credential)
	if err != nil {
		return "", err
	}
	_, password, err := initCluster(ctx, source, home, credential)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(home, "password"), []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("write password: %w", err)
	}
	// In its place at once and whole. Of two that make one at the same time, one was quicker.
	if err := os.Rename(home, model); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("place model cluster: %w", err)
	}
	return model, os.RemoveAll(draft)
}
