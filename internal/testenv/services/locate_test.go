package services

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseSource(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       Source
		err        string
	}{
		{name: "nothing"},
		{name: "a path", text: "/usr/bin/redis-server", want: Source{Path: "/usr/bin/redis-server"}},
		{name: "an image", text: "podman://localhost:5000/redis:8", want: Source{Engine: "podman", Image: "localhost:5000/redis:8"}},
		{name: "no image", text: "docker://", err: `source "docker://" is neither a path nor engine://image`},
		{name: "no engine", text: "://redis", err: `source "://redis" is neither a path nor engine://image`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSource(test.text)
			if test.err != "" {
				require.EqualError(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
			require.Equal(t, test.text, got.String())
		})
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, line string
		want       version
	}{
		{"Postgres of Debian", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", version{15, 18}},
		{"Postgres before its release", "postgres (PostgreSQL) 19beta2", version{19, 0}},
		{"Redis", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", version{7, 0}},
		{"Valkey", "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", version{8, 1}},
		{"nothing", "", version{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, parseVersion(test.line))
		})
	}
}

func TestLocateSaysWhatToInstall(t *testing.T) { // not parallel: it changes the environment
	t.Setenv("PATH", t.TempDir()) // no engine, no package manager
	var log bytes.Buffer
	_, err := locate(t.Context(), &log, program{
		name: "Redis 6.2 or newer", env: "TEST_NOT_SET", image: redisImage, packages: []string{"redis-server"},
		find: func(context.Context) string { return "" },
	})
	require.ErrorContains(t, err, "the tests need Redis 6.2 or newer and there is none")
	require.ErrorContains(t, err, "apt-get install redis-server")
	require.ErrorContains(t, err, "set TEST_NOT_SET to its binaries")
	require.Contains(t, log.String(), "looking for a container engine")
}

func TestNewestTakesNoneThatIsTooOld(t *testing.T) {
	t.Parallel()
	self := func(path string) string { return path }
	ctx := t.Context()
	found := findRedis(ctx)
	require.NotEmpty(t, found)
	require.Equal(t, found, newest(ctx, []string{"/nowhere/redis-server", found}, oldestRedis, self))
	require.Empty(t, newest(ctx, []string{found}, version{1000, 0}, self))
}

func TestOpenToAll(t *testing.T) {
	t.Parallel()
	require.True(t, openToAll("/"))
	require.False(t, openToAll("/nowhere"))
	require.False(t, openToAll(t.TempDir()), "its parent is for its owner alone")
}
