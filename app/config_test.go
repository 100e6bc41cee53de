package app_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
)

func load(env map[string]string) (*app.Config, error) {
	return app.LoadConfig(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(nil)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:8080", c.ListenAddr)
	require.Equal(t, []time.Duration{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}, c.RetrySchedule)
	require.Equal(t, 30*24*time.Hour, c.Retention)
	require.Equal(t, 262144, c.MaxEventBytes)
	require.Empty(t, c.EgressAllow)
}

func TestConfigTakesDurationsInBothForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"15s": 15 * time.Second, "PT15S": 15 * time.Second, "250ms": 250 * time.Millisecond, "PT0.25S": 250 * time.Millisecond,
	} {
		c, err := load(map[string]string{"ATTEMPT_TIMEOUT": text})
		require.NoError(t, err, text)
		require.Equal(t, want, c.AttemptTimeout, text)
	}
	c, err := load(map[string]string{"DISABLE_AFTER": "2d", "RETRY_SCHEDULE": "1ms, PT1M,1d"})
	require.NoError(t, err)
	require.Equal(t, 48*time.Hour, c.DisableAfter)
	require.Equal(t, []time.Duration{time.Millisecond, time.Minute, 24 * time.Hour}, c.RetrySchedule)
}

func TestConfigPort(t *testing.T) {
	t.Parallel()
	c, err := load(map[string]string{"PORT": "9999"})
	require.NoError(t, err)
	require.Equal(t, ":9999", c.ListenAddr)
	c, err = load(map[string]string{"PORT": "9999", "LISTEN_ADDR": "127.0.0.1:1"})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1", c.ListenAddr)
}

func TestConfigNamesWhatIsWrongAndWhatIsAllowed(t *testing.T) {
	t.Parallel()
	const key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	tests := map[string]struct {
		env  map[string]string
		want []string
	}{
		"bad duration":       {map[string]string{"ATTEMPT_TIMEOUT": "soon"}, []string{"ATTEMPT_TIMEOUT", "from 1ms to 60s"}},
		"too long":           {map[string]string{"ATTEMPT_TIMEOUT": "61s"}, []string{"ATTEMPT_TIMEOUT", "60s"}},
		"zero":               {map[string]string{"RECONCILE_INTERVAL": "0s"}, []string{"RECONCILE_INTERVAL", "from 1ms"}},
		"bad number":         {map[string]string{"MAX_BATCH": "1e3"}, []string{"MAX_BATCH", "from 1 to 1000"}},
		"not a number":       {map[string]string{"BREAKER_THRESHOLD": "NaN"}, []string{"BREAKER_THRESHOLD", "from 0.01 to 1"}},
		"bad bool":           {map[string]string{"ASYNQ_UI_WRITE": "yes please"}, []string{"ASYNQ_UI_WRITE", "true and false"}},
		"bad level":          {map[string]string{"LOG_LEVEL": "loud"}, []string{"LOG_LEVEL", "debug, info, warn, error"}},
		"bad CIDR":           {map[string]string{"EGRESS_ALLOW": "127.0.0.1"}, []string{"EGRESS_ALLOW", "10.0.0.0/8"}},
		"bad address":        {map[string]string{"LISTEN_ADDR": "8080"}, []string{"LISTEN_ADDR", "host:port"}},
		"no such port":       {map[string]string{"LISTEN_ADDR": ":65536"}, []string{"LISTEN_ADDR", "host:port"}},
		"a port's name":      {map[string]string{"LISTEN_ADDR": "127.0.0.1:http"}, []string{"LISTEN_ADDR", "host:port"}},
		"bad PORT":           {map[string]string{"PORT": "eighty"}, []string{"PORT: must be", "65535"}},
		"negative PORT":      {map[string]string{"PORT": "-1"}, []string{"PORT: must be", "65535"}},
		"no such admin port": {map[string]string{"ADMIN_LISTEN_ADDR": "127.0.0.1:70000"}, []string{"ADMIN_LISTEN_ADDR", "host:port"}},
		"bad database parameter": {
			map[string]string{"DATABASE_URL": "postgres://u:hunter2@db/x?sslmode=bogus&password=hunter2", "SECRETS_KEY": key}, []string{"DATABASE_URL", "sslmode"},
		},
		"bad Redis database":  {map[string]string{"REDIS_URL": "redis://:hunter2@cache/zero"}, []string{"REDIS_URL", "redis://[user:password@]host[:port][/db]"}},
		"bad Redis parameter": {map[string]string{"REDIS_URL": "redis://:hunter2@cache?nope=1"}, []string{"REDIS_URL", "redis://[user:password@]host[:port][/db]"}},
		"no such Redis port":  {map[string]string{"REDIS_URL": "redis://:hunter2@cache:65536"}, []string{"REDIS_URL", "redis://[user:password@]host[:port][/db]"}},
		"JWKS without a host": {map[string]string{"JWT_JWKS_URL": "https://"}, []string{"JWT_JWKS_URL", "must name a host"}},
		"other database":      {map[string]string{"DATABASE_URL": "mysql://root:hunter2@db/x", "SECRETS_KEY": key}, []string{"DATABASE_URL", "postgres://"}},
		"no master key":       {map[string]string{"DATABASE_URL": "postgres://u:hunter2@db/x"}, []string{"SECRETS_KEY", "required with DATABASE_URL"}},
		"short master key":    {map[string]string{"SECRETS_KEY": key + ",aHVudGVyMg=="}, []string{"SECRETS_KEY", "key 2", "32 bytes"}},
		"short JWT secret":    {map[string]string{"JWT_SECRET": "hunter2"}, []string{"JWT_SECRET", "32 bytes"}},
		"several":             {map[string]string{"MAX_BATCH": "0", "RETENTION": "x"}, []string{"MAX_BATCH", "RETENTION"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(test.env)
			var bad *app.ConfigError
			require.ErrorAs(t, err, &bad)
			for _, part := range test.want {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hunter2")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestSettingsMaskSecretsInQueries(t *testing.T) {
	t.Parallel()
	c, err := load(map[string]string{
		"DATABASE_URL": "postgres://db/x?sslmode=disable&password=hunter2&user=u", "SECRETS_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	})
	require.NoError(t, err)
	for _, s := range c.Settings() {
		if s.Name == "DATABASE_URL" {
			require.Equal(t, "postgres://db/x?password=xxxxx&sslmode=disable&user=u", s.Value)
		}
	}
}

func TestSettingsMaskSecrets(t *testing.T) {
	t.Parallel()
	c, err := load(map[string]string{
		"DATABASE_URL": "postgres://user:hunter2@db/x", "SECRETS_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"REDIS_URL": "redis://:hunter2@cache:6379", "ADMIN_API_KEY": "hunter2-hunter2-hunter2", "JWT_SECRET": "hunter2-hunter2-hunter2-hunter2-hunter2",
		"JWT_JWKS_URL": "https://user:hunter2@keys.example/set?code=hunter2",
	})
	require.NoError(t, err)
	for _, s := range c.Settings() {
		require.NotContains(t, s.Value, "hunter2", s.Name)
		require.NotContains(t, s.Value, "MDEyMzQ1", s.Name)
		require.NotEmpty(t, s.Doc, s.Name)
		switch s.Name {
		case "DATABASE_URL":
			require.Equal(t, "postgres://user:xxxxx@db/x", s.Value)
			require.Equal(t, "environment", s.Source)
		case "ATTEMPT_TIMEOUT":
			require.Equal(t, "15s", s.Value)
			require.Equal(t, "default", s.Source)
		}
	}
}
