//go:build unix

package models

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile keeps every other process off the database at path until the answer is called. The
// kernel frees the lock of a process that dies.
func lockFile(path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		_ = file.Close()
		return nil, &LockedError{Path: path}
	case err != nil:
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file.Close, nil
}
