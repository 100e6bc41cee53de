package services

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ScratchDir makes a new directory for servers' files, on disk and reachable by the account that
// Postgres runs as. It lies in TEST_SCRATCH_DIR when that is set, else in /var/tmp (which, unlike
// /tmp, is never kept in memory), else in the system's temporary directory. The caller deletes it.
func ScratchDir(prefix string) (string, error) {
	var errs []error
	for _, parent := range []string{os.Getenv(ScratchEnv), "/var/tmp", os.TempDir(), "/tmp"} {
		if parent == "" {
			continue
		}
		if os.Geteuid() == 0 && !openToAll(parent) {
			errs = append(errs, fmt.Errorf("%s is closed to other users", parent))
			continue
		}
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Others may pass through to the directory that is theirs, and may not list this one.
		if err := os.Chmod(dir, 0o711); err != nil {
			return "", fmt.Errorf("open scratch directory: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("make scratch directory: %w", errors.Join(errs...))
}

// openToAll reports whether every user can pass through the directory and all above it.
func openToAll(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// unprivileged returns the account that a server drops to, nil when the process is not root.
// Postgres refuses to run as root, and as an account that the system cannot name.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil is the answer "stay who you are"
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
		if errUID == nil && errGID == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("no user postgres or nobody to run Postgres as, which refuses to run as root")
}
