package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The variables by which a run names its servers to the tests, and by which the environment may
// name them to a run.
const (
	// DatabaseURLEnv holds the owner's URL of a Postgres server; tests create databases in it.
	DatabaseURLEnv = "TEST_DATABASE_URL"
	// RedisURLEnv holds the URL of a Redis server; tests take logical databases of it.
	RedisURLEnv = "TEST_REDIS_URL"
	// PostgresSourceEnv holds the Source of Postgres for tests that need a server of their own.
	PostgresSourceEnv = "TEST_POSTGRES_BIN"
	// RedisSourceEnv holds the Source of Redis for tests that need a server of their own.
	RedisSourceEnv = "TEST_REDIS_BINARY"
	// ScratchEnv holds the directory in which servers keep their files. It must be on a disk
	// for the tests of crashes to mean anything.
	ScratchEnv = "TEST_SCRATCH_DIR"
)

const (
	postgresImage = "postgres:17-alpine"
	redisImage    = "redis:8-alpine"
)

// The oldest versions that the product promises to run on.
var (
	oldestPostgres = version{14, 0}
	oldestRedis    = version{6, 2}
)

// A program is a kind of server and the ways to get it.
type program struct {
	name     string
	env      string
	image    string
	packages []string // of Debian and its descendants
	find     func(context.Context) string
}

var (
	postgresProgram = program{
		name: "Postgres 14 or newer", env: PostgresSourceEnv, image: postgresImage,
		packages: []string{"postgresql"}, find: findPostgres,
	}
	redisProgram = program{
		name: "Redis 6.2 or newer", env: RedisSourceEnv, image: redisImage,
		packages: []string{"redis-server"}, find: findRedis,
	}
)

// Locate returns the sources of Postgres and Redis: each from its variable when that is set, else
// from installed binaries, else from a container engine that answers, else by installing the
// system's package when the process is root. What it tries and finds goes to log, a line each.
// When there is no way it returns an error that says what to install.
func Locate(ctx context.Context, log io.Writer) (postgres, redis Source, err error) {
	postgres, errPostgres := locate(ctx, log, postgresProgram)
	redis, errRedis := locate(ctx, log, redisProgram)
	return postgres, redis, errors.Join(errPostgres, errRedis)
}

func locate(ctx context.Context, log io.Writer, p program) (Source, error) {
	if text := os.Getenv(p.env); text != "" {
		fmt.Fprintf(log, "%s: %s from %s\n", p.name, text, p.env)
		return ParseSource(text)
	}
	if path := p.find(ctx); path != "" {
		fmt.Fprintf(log, "%s: found %s\n", p.name, path)
		return Source{Path: path}, nil
	}
	fmt.Fprintf(log, "%s: not installed, looking for a container engine\n", p.name)
	if engine := pullImage(ctx, log, p.image); engine != "" {
		return Source{Engine: engine, Image: p.image}, nil
	}
	fmt.Fprintf(log, "%s: no container engine serves %s, installing packages\n", p.name, p.image)
	errInstall := InstallPackages(ctx, log, p.packages...)
	if errInstall == nil {
		if path := p.find(ctx); path != "" {
			fmt.Fprintf(log, "%s: installed %s\n", p.name, path)
			return Source{Path: path}, nil
		}
		errInstall = errors.New("the package brought no such binary")
	}
	return Source{}, fmt.Errorf("the tests need %s and there is none (%w): install it (Debian, Ubuntu: apt-get install %s), "+
		"start Docker or Podman, or set %s to its binaries", p.name, errInstall, strings.Join(p.packages, " "), p.env)
}

// pullImage returns the first container engine that answers and has, or gets, the image.
func pullImage(ctx context.Context, log io.Writer, image string) string {
	for _, engine := range []string{"docker", "podman"} {
		if _, err := exec.LookPath(engine); err != nil {
			continue
		}
		if !succeeds(ctx, 10*time.Second, engine, "info") {
			fmt.Fprintf(log, "%s is there but does not answer\n", engine)
			continue
		}
		if succeeds(ctx, 10*time.Second, engine, "image", "inspect", image) ||
			succeeds(ctx, 5*time.Minute, engine, "pull", image) {
			return engine
		}
	}
	return ""
}

func succeeds(ctx context.Context, limit time.Duration, name string, args ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return exec.CommandContext(ctx, name, args...).Run() == nil
}

// InstallPackages installs packages of Debian or Ubuntu without questions and, as far as the system
// lets it, without starting their services. It needs root.
func InstallPackages(ctx context.Context, log io.Writer, names ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can install packages")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("no apt-get here to install packages with")
	}
	lock := []string{"-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"}
	for _, args := range [][]string{
		append(slices.Clone(lock), "update"),
		append(append(slices.Clone(lock), "install", "-y", "--no-install-recommends"), names...),
	} {
		fmt.Fprintf(log, "apt-get %s\n", strings.Join(args[len(lock):], " "))
		command := exec.CommandContext(ctx, "apt-get", args...)
		// Either variable keeps a maintainer script from starting a service, on SysV and on systemd.
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "SYSTEMD_OFFLINE=1")
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[len(lock)], err, lastLines(string(output), 5))
		}
	}
	return nil
}

// findPostgres returns the directory of the newest usable Postgres, or nothing. Debian keeps the
// server's binaries off the PATH.
func findPostgres(ctx context.Context) string {
	var candidates []string
	if output, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(output)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		candidates = append(candidates, filepath.Dir(path))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/libexec/postgresql*",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		candidates = append(candidates, found...)
	}
	return newest(ctx, candidates, oldestPostgres, func(dir string) string {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
			return ""
		}
		return filepath.Join(dir, "postgres")
	})
}

// findRedis returns the binary of the newest usable Redis or Valkey, or nothing.
func findRedis(ctx context.Context) string {
	var candidates []string
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			candidates = append(candidates, path)
		}
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"} {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	return newest(ctx, candidates, oldestRedis, func(path string) string { return path })
}

// newest returns the candidate whose binary reports the highest version, at least oldest.
func newest(ctx context.Context, candidates []string, oldest version, binary func(string) string) string {
	best, bestVersion := "", oldest
	for _, candidate := range candidates {
		path := binary(candidate)
		if path == "" {
			continue
		}
		output, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			continue
		}
		if v := parseVersion(string(output)); v.compare(bestVersion) > 0 || best == "" && v == oldest {
			best, bestVersion = candidate, v
		}
	}
	return best
}

// A version is what the promises above compare: major and minor.
type version struct{ major, minor int }

func (v version) compare(other version) int {
	return cmp.Or(cmp.Compare(v.major, other.major), cmp.Compare(v.minor, other.minor))
}

var versionPattern = regexp.MustCompile(`(\d+)(?:\.(\d+))?`)

// parseVersion takes the first number out of a program's --version line; zero when there is none.
func parseVersion(line string) version {
	match := versionPattern.FindStringSubmatch(line)
	if match == nil {
		return version{}
	}
	major, _ := strconv.Atoi(match[1])
	minor, _ := strconv.Atoi(match[2])
	return version{major, minor}
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
