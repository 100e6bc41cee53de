package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// Config is every setting of a process. Each field's tags name its environment variable, its
// default as text, and what it is; help, `config` and the README's table are made from them.
// A field tagged secret is never printed.
type Config struct {
	ListenAddr           string          `env:"LISTEN_ADDR" default:"127.0.0.1:8080" doc:"HTTP listener (PORT=n stands for :n; a worker's default is 127.0.0.1:8081)"`
	AdminListenAddr      string          `env:"ADMIN_LISTEN_ADDR" default:"" doc:"own listener for the operators' pages (queue UI, metrics); empty: on LISTEN_ADDR"`
	DataDir              string          `env:"DATA_DIR" default:"./data" doc:"embedded database and generated keys (0600)"`
	DatabaseURL          string          `env:"DATABASE_URL" default:"" secret:"url" doc:"postgres://… ; empty: SQLite in DATA_DIR"`
	RedisURL             string          `env:"REDIS_URL" default:"" secret:"url" doc:"redis://… or rediss://… ; empty: in-process"`
	AdminAPIKey          string          `env:"ADMIN_API_KEY" default:"" secret:"all" doc:"a platform key with scope ADMIN; empty: generated at the first start and printed once"`
	SecretsKey           string          `env:"SECRETS_KEY" default:"" secret:"all" doc:"comma-separated base64 32-byte keys, the first encrypts; generated into DATA_DIR when embedded, required with DATABASE_URL"`
	EgressAllow          []netip.Prefix  `env:"EGRESS_ALLOW" default:"" doc:"comma-separated CIDRs that targets may be in though they are not public"`
	JWTSecret            string          `env:"JWT_SECRET" default:"" secret:"all" doc:"HS256 secret of the platform's tokens, at least 32 bytes"`
	JWTJWKSURL           string          `env:"JWT_JWKS_URL" default:"" secret:"url" doc:"where the platform publishes its tokens' keys"`
	JWTIssuer            string          `env:"JWT_ISSUER" default:"" doc:"the iss that tokens must carry"`
	JWTAudience          string          `env:"JWT_AUDIENCE" default:"" doc:"the aud that tokens must carry"`
	RetrySchedule        []time.Duration `env:"RETRY_SCHEDULE" default:"5s,5m,30m,2h,5h,10h,14h,20h,24h" min:"1ms" max:"168h" doc:"waits before each retry, comma-separated; a webhook's own comes first"`
	AttemptTimeout       time.Duration   `env:"ATTEMPT_TIMEOUT" default:"15s" min:"1ms" max:"60s" doc:"time for one attempt, body included"`
	ReconcileInterval    time.Duration   `env:"RECONCILE_INTERVAL" default:"10s" min:"1ms" max:"1h" doc:"how often lost tasks are looked for"`
	Retention            time.Duration   `env:"RETENTION" default:"30d" min:"1ms" doc:"how long events, deliveries and attempts are kept"`
	RetentionInterval    time.Duration   `env:"RETENTION_INTERVAL" default:"10m" min:"1ms" doc:"how often what is older is removed"`
	DisableAfter         time.Duration   `env:"DISABLE_AFTER" default:"5d" min:"1ms" doc:"a webhook that only fails for this long is disabled"`
	BreakerWindow        time.Duration   `env:"BREAKER_WINDOW" default:"60s" min:"1ms" max:"1h" doc:"the time that the circuit breaker looks back"`
	BreakerCooldown      time.Duration   `env:"BREAKER_COOLDOWN" default:"30s" min:"1ms" max:"1h" doc:"how long an open circuit waits before its probe"`
	BreakerMinAttempts   int             `env:"BREAKER_MIN_ATTEMPTS" default:"20" min:"1" max:"1000000" doc:"attempts in the window before the circuit may open"`
	BreakerThreshold     float64         `env:"BREAKER_THRESHOLD" default:"0.5" min:"0.01" max:"1" doc:"share of failures that opens the circuit"`
	MaxEventBytes        int             `env:"MAX_EVENT_BYTES" default:"262144" min:"2" max:"16777216" doc:"an event's data, in bytes of compact JSON"`
	MaxBatch             int             `env:"MAX_BATCH" default:"100" min:"1" max:"1000" doc:"events in one emitEvents"`
	IdempotencyWindow    time.Duration   `env:"IDEMPOTENCY_WINDOW" default:"24h" min:"1ms" doc:"how long an idempotency key answers with its first event"`
	FeedRetention        time.Duration   `env:"FEED_RETENTION" default:"24h" min:"1ms" doc:"how old a live cursor may be"`
	MaxConnections       int             `env:"MAX_CONNECTIONS" default:"10000" min:"1" max:"1000000" doc:"callers' connections, subscriptions included"`
	MaxBodyBytes         int             `env:"MAX_BODY_BYTES" default:"0" min:"0" max:"1073741824" doc:"a request's body; 0: MAX_BATCH times MAX_EVENT_BYTES and 1 MiB"`
	MaxBodyDepth         int             `env:"MAX_BODY_DEPTH" default:"512" min:"8" max:"10000" doc:"arrays and objects of a request's body inside each other"`
	MaxQueryTokens       int             `env:"MAX_QUERY_TOKENS" default:"2000" min:"1" max:"100000" doc:"tokens of a GraphQL document; literal data in a mutation has fifty times as many"`
	MaxQueryOperations   int             `env:"MAX_QUERY_OPERATIONS" default:"20" min:"1" max:"1000" doc:"operations in a document"`
	MaxQueryFragments    int             `env:"MAX_QUERY_FRAGMENTS" default:"50" min:"1" max:"1000" doc:"fragments in a document"`
	MaxQueryVariables    int             `env:"MAX_QUERY_VARIABLES" default:"100" min:"1" max:"1000" doc:"variables of an operation"`
	MaxQueryDirectives   int             `env:"MAX_QUERY_DIRECTIVES" default:"50" min:"1" max:"1000" doc:"directives in a document"`
	MaxQueryDepth        int             `env:"MAX_QUERY_DEPTH" default:"15" min:"1" max:"100" doc:"fields inside each other"`
	MaxQueryAliases      int             `env:"MAX_QUERY_ALIASES" default:"50" min:"1" max:"1000" doc:"aliases in an operation"`
	MaxQueryFields       int             `env:"MAX_QUERY_FIELDS" default:"2000" min:"1" max:"100000" doc:"fields that an operation selects, repeated ones included"`
	MaxQueryFieldsPerSet int             `env:"MAX_QUERY_FIELDS_PER_SET" default:"200" min:"1" max:"1000" doc:"selections between two braces"`
	MaxQueryRootFields   int             `env:"MAX_QUERY_ROOT_FIELDS" default:"20" min:"1" max:"1000" doc:"fields at an operation's root"`
	MaxQueryComplexity   int             `env:"MAX_QUERY_COMPLEXITY" default:"50000" min:"1" max:"10000000" doc:"fields that an answer may have, pages taken at the size asked for"`
	MaxListInput         int             `env:"MAX_LIST_INPUT" default:"0" min:"0" max:"1000000" doc:"entries of a list in arguments; 0: 1000, or twice MAX_BATCH where that is more"`
	QueryCache           int             `env:"QUERY_CACHE" default:"1000" min:"1" max:"100000" doc:"checked documents that are kept, each of at most 16 KiB"`
	MaxSubscriptions     int             `env:"MAX_SUBSCRIPTIONS" default:"1000" min:"1" max:"1000000" doc:"open subscriptions of one key or token, in a process"`
	StreamIdle           time.Duration   `env:"STREAM_IDLE" default:"5m" min:"1ms" doc:"how long a WebSocket may be open without an operation"`
	StreamLifetime       time.Duration   `env:"STREAM_LIFETIME" default:"24h" min:"1ms" doc:"how long a WebSocket or an event stream may be open"`
	WorkerConcurrency    int             `env:"WORKER_CONCURRENCY" default:"512" min:"1" max:"100000" doc:"attempts at once in a process"`
	WebhookShare         float64         `env:"WEBHOOK_SHARE" default:"0.25" min:"0.001" max:"1" doc:"share of them that one webhook may hold"`
	KeepResponseBytes    int             `env:"KEEP_RESPONSE_BYTES" default:"16384" min:"0" max:"1048576" doc:"how much of a response's decoded body is kept"`
	RetryAfterMax        time.Duration   `env:"RETRY_AFTER_MAX" default:"24h" min:"1ms" doc:"the longest Retry-After that is obeyed"`
	ShutdownGrace        time.Duration   `env:"SHUTDOWN_GRACE" default:"20s" min:"1ms" max:"1h" doc:"time for what is in flight at a stop"`
	AsynqUIWrite         bool            `env:"ASYNQ_UI_WRITE" default:"false" doc:"whether the queue UI may change tasks"`
	LogLevel             string          `env:"LOG_LEVEL" default:"info" oneof:"debug info warn error" doc:"the least level that is logged"`
	LogFormat            string          `env:"LOG_FORMAT" default:"" oneof:"text json" doc:"text or json; empty: text on a terminal, else json"`

	sources map[string]string // where each variable's value came from
}

// ConfigError is all that is wrong with the configuration. Its text is one line.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string { return strings.Join(e.Problems, "; ") }

// fromPort is the source of a LISTEN_ADDR that PORT stands for.
const fromPort = "environment (PORT)"

// LoadConfig reads the configuration from lookup, which is os.LookupEnv but in tests. An empty
// value counts as not set.
func LoadConfig(lookup func(string) (string, bool)) (*Config, error) {
	c := &Config{sources: map[string]string{}}
	var bad ConfigError
	c.each(func(f field) {
		text, source := f.def, "default"
		if v, ok := lookup(f.env); ok && v != "" {
			text, source = v, "environment"
		} else if f.env == "LISTEN_ADDR" {
			if port, ok := lookup("PORT"); ok && port != "" {
				text, source = ":"+port, fromPort
			}
		}
		c.sources[f.env] = source
		if err := f.set(text); err != nil {
			name := f.env
			if source == fromPort {
				name = "PORT"
			}
			bad.Problems = append(bad.Problems, fmt.Sprintf("%s: %v", name, err))
		}
	})
	if len(bad.Problems) == 0 {
		bad.Problems = c.conflicts()
	}
	if len(bad.Problems) > 0 {
		return nil, &bad
	}
	return c, nil
}

// conflicts finds values that are fine by themselves and wrong together.
func (c *Config) conflicts() []string {
	var out []string
	if !validAddr(c.ListenAddr) {
		if c.sources["LISTEN_ADDR"] == fromPort {
			out = append(out, "PORT: must be a whole number from 0 to 65535")
		} else {
			out = append(out, "LISTEN_ADDR: must be host:port, for example 127.0.0.1:8080 or :8080")
		}
	}
	if c.AdminListenAddr != "" && !validAddr(c.AdminListenAddr) {
		out = append(out, "ADMIN_LISTEN_ADDR: must be host:port, for example 127.0.0.1:9090")
	}
	if c.DatabaseURL != "" {
		err := checkURL(c.DatabaseURL, "postgres", "postgresql")
		if err == nil {
			err = models.CheckURL(c.DatabaseURL)
		}
		if err != nil {
			out = append(out, "DATABASE_URL: "+err.Error())
		}
		if c.SecretsKey == "" {
			out = append(out, "SECRETS_KEY: required with DATABASE_URL: a base64 32-byte key, for example from `openssl rand -base64 32`")
		}
	}
	if c.RedisURL != "" {
		err := checkURL(c.RedisURL, "redis", "rediss")
		if err == nil {
			err = queue.CheckURL(c.RedisURL)
		}
		if err != nil {
			out = append(out, "REDIS_URL: "+err.Error())
		}
	}
	if c.JWTJWKSURL != "" {
		err := checkURL(c.JWTJWKSURL, "http", "https")
		if u, parseErr := url.Parse(c.JWTJWKSURL); err == nil && parseErr == nil && u.Hostname() == "" {
			err = errors.New("must name a host, for example https://id.example.com/jwks.json")
		}
		if err != nil {
			out = append(out, "JWT_JWKS_URL: "+err.Error())
		}
	}
	if c.SecretsKey != "" {
		for n, key := range strings.Split(c.SecretsKey, ",") {
			if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key)); err != nil || len(b) != 32 {
				out = append(out, fmt.Sprintf("SECRETS_KEY: key %d is not 32 bytes in base64; allowed are comma-separated keys as `openssl rand -base64 32` prints them", n+1))
			}
		}
	}
	if c.JWTSecret != "" && len(c.JWTSecret) < 32 {
		out = append(out, "JWT_SECRET: must be at least 32 bytes")
	}
	if n := len(c.AdminAPIKey); n > 0 && n < 16 {
		out = append(out, "ADMIN_API_KEY: must be at least 16 characters")
	}
	if len(c.RetrySchedule) > 50 {
		out = append(out, fmt.Sprintf("RETRY_SCHEDULE: has %d steps; at most 50 are allowed", len(c.RetrySchedule)))
	}
	return out
}

// validAddr reports whether a listener can be opened at addr, as far as its form says. Names of
// services are no ports: which ones there are is up to the machine.
func validAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// checkURL names the scheme that is wrong and never the URL, which may hold a password.
func checkURL(raw string, schemes ...string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("is not a URL")
	}
	if slices.Contains(schemes, u.Scheme) {
		return nil
	}
	return fmt.Errorf("must begin with %s://", strings.Join(schemes, ":// or "))
}

// Setting is one variable as `config`, help and the README show it.
type Setting struct {
	Name, Value, Default, Source, Doc string
}

// Settings lists every variable with its effective value; secrets are masked.
func (c *Config) Settings() []Setting {
	var out []Setting
	c.each(func(f field) {
		out = append(out, Setting{Name: f.env, Value: f.show(), Default: f.def, Source: c.sources[f.env], Doc: f.doc})
	})
	return out
}

// Explicit reports whether the variable was set by the environment.
func (c *Config) Explicit(name string) bool { return strings.HasPrefix(c.sources[name], "environment") }

// field is one tagged field of Config.
type field struct {
	env, def, doc, secret, oneof string
	min, max                     string
	value                        reflect.Value
}

func (c *Config) each(do func(field)) {
	v := reflect.ValueOf(c).Elem()
	for n := range v.NumField() {
		t := v.Type().Field(n)
		if name := t.Tag.Get("env"); name != "" {
			do(field{
				env: name, def: t.Tag.Get("default"), doc: t.Tag.Get("doc"), secret: t.Tag.Get("secret"),
				oneof: t.Tag.Get("oneof"), min: t.Tag.Get("min"), max: t.Tag.Get("max"), value: v.Field(n),
			})
		}
	}
}

// set parses text into the field. Its errors say what is allowed and never repeat a secret.
func (f field) set(text string) error {
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		if f.oneof != "" && text != "" && !contains(strings.Fields(f.oneof), text) {
			return fmt.Errorf("%q is not allowed; allowed are %s", text, strings.Join(strings.Fields(f.oneof), ", "))
		}
		*p = text
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not allowed; allowed are true and false", text)
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(text)
		if lo, hi := f.bounds(strconv.Atoi); err != nil || n < lo || n > hi {
			return fmt.Errorf("%q is not allowed; allowed are whole numbers from %s to %s", text, f.min, f.max)
		}
		*p = n
	case *float64:
		parse := func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }
		x, err := parse(text)
		lo, _ := parse(f.min)
		hi, _ := parse(f.max)
		// Written so that NaN fails too.
		if err != nil || !(x >= lo && x <= hi) {
			return fmt.Errorf("%q is not allowed; allowed are numbers from %s to %s", text, f.min, f.max)
		}
		*p = x
	case *time.Duration:
		d, err := f.duration(text)
		if err != nil {
			return err
		}
		*p = d
	case *[]time.Duration:
		*p = []time.Duration{}
		for part := range strings.SplitSeq(text, ",") {
			d, err := f.duration(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			*p = append(*p, d)
		}
	case *[]netip.Prefix:
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			prefix, err := netip.ParsePrefix(part)
			if err != nil {
				return fmt.Errorf("%q is not a CIDR; allowed are comma-separated ones such as 10.0.0.0/8 or fd00::/8", part)
			}
			*p = append(*p, prefix.Masked())
		}
	default:
		return fmt.Errorf("unsupported type %T", p)
	}
	return nil
}

func (f field) bounds(parse func(string) (int, error)) (lo, hi int) {
	lo, _ = parse(f.min)
	hi, _ = parse(f.max)
	return lo, hi
}

// duration takes Go's form (90s, 5m), with d for days, or ISO 8601's (PT90S, P5D).
func (f field) duration(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil {
		if lo, _ := parseDuration(f.min); d < lo {
			err = errors.New("too short")
		}
		if hi, e := parseDuration(f.max); f.max != "" && e == nil && d > hi {
			err = errors.New("too long")
		}
	}
	if err != nil {
		limit := "at least " + f.min
		if f.max != "" {
			limit = "from " + f.min + " to " + f.max
		}
		return 0, fmt.Errorf("%q is not allowed; allowed are durations %s, such as 500ms, 15s, 24h, 5d or PT15S", text, limit)
	}
	return d, nil
}

func parseDuration(text string) (time.Duration, error) {
	if strings.HasPrefix(text, "P") {
		return models.ParseDuration(text)
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n < 36500) {
			return 0, errors.New("not a number of days")
		}
		return time.Duration(n * float64(24*time.Hour)), nil
	}
	return time.ParseDuration(text)
}

// show is the effective value for a person, secrets masked.
func (f field) show() string {
	switch v := f.value.Interface().(type) {
	case string:
		switch {
		case v == "" || f.secret == "":
			return v
		case f.secret == "url":
			if u, err := url.Parse(v); err == nil {
				return redacted(u)
			}
		}
		return "********"
	case []time.Duration:
		parts := make([]string, len(v))
		for n, d := range v {
			parts[n] = d.String()
		}
		return strings.Join(parts, ",")
	case []netip.Prefix:
		parts := make([]string, len(v))
		for n, p := range v {
			parts[n] = p.String()
		}
		return strings.Join(parts, ",")
	default:
		return fmt.Sprint(v)
	}
}

// redacted is a URL without its password, which Postgres takes in the query too: what a query says
// is shown for what is known to be harmless.
func redacted(u *url.URL) string {
	query := u.Query()
	for name := range query {
		if !slices.Contains(harmlessParameters, name) {
			query.Set(name, "xxxxx")
		}
	}
	shown := *u
	if len(query) > 0 {
		shown.RawQuery = query.Encode()
	}
	return shown.Redacted()
}

var harmlessParameters = []string{
	"application_name", "connect_timeout", "dbname", "host", "pool_max_conns", "pool_min_conns", "port", "search_path", "sslcert", "sslkey",
	"sslmode", "sslrootcert", "target_session_attrs", "timezone", "user", "db", "protocol",
}

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}

// Environment is os.LookupEnv, named so that callers say where the configuration comes from.
func Environment(name string) (string, bool) { return os.LookupEnv(name) }
