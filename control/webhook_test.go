package control_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

func TestCreateWebhook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w, key, err := f.CreateWebhook(t.Context(), f.acme, control.WebhookInput{
			ExternalID: new("crm-1"), Name: "CRM Sync", TargetURL: "https://crm.example/hooks?x=1",
			EventTypes: []string{"participant.created", "message.*"},
			Filter:     new(`data.participant.email.endsWith("@example.com")`),
			Headers:    []control.HeaderInput{{Name: "X-Region", Value: new("eu")}},
			Timeout:    new("PT0.05S"), RetrySchedule: new([]string{"PT1S", "P7D"}), RateLimitPerSecond: new(5),
		})
		require.NoError(t, err)
		require.Regexp(t, `^whsec_[A-Za-z0-9+/]{43}=$`, key)
		require.Equal(t, key[len(key)-5:len(key)-1], *w.KeyHint)
		require.Nil(t, w.PublicKey)

		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, stored)
		require.Equal(t, "acme", stored.Tenant)
		require.Equal(t, models.WebhookActive, stored.Status)
		require.Equal(t, 1, stored.Version)
		require.Equal(t, models.StringList{"participant.created", "message.*"}, stored.EventTypes)
		require.Equal(t, models.Millis(50*time.Millisecond), *stored.Timeout)
		require.Equal(t, models.Schedule{time.Second, 7 * 24 * time.Hour}, *stored.RetrySchedule)
		require.Equal(t, models.SigningHMAC, stored.Signing)
		opened, err := f.keyring.OpenSecret(stored.SealedKey, w.ID)
		require.NoError(t, err)
		require.Equal(t, key, opened.Reveal())
		_, err = f.keyring.OpenSecret(stored.SealedKey, models.NewID(models.PrefixWebhook))
		require.Error(t, err, "sealed for this webhook alone")
	})
}

func TestCreateWebhookDefaults(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		require.Nil(t, w.Timeout)
		require.Nil(t, w.RetrySchedule)
		require.Nil(t, w.RateLimitPerSecond)
		require.Empty(t, w.SealedHeaders)
		w = f.create(t, func(in *control.WebhookInput) { in.RetrySchedule = new([]string{}) })
		require.Equal(t, models.Schedule{}, *w.RetrySchedule, "empty means no retries")
		require.Equal(t, 15*time.Second, f.Defaults().Timeout)
	})
}

func TestCreateED25519Webhook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w, key, err := f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { in.Signing = models.SigningEd25519 }))
		require.NoError(t, err)
		require.Empty(t, key, "nobody ever sees the private half")
		require.True(t, strings.HasPrefix(*w.PublicKey, "whpk_"))
		require.Nil(t, w.KeyHint)
		before := *w.PublicKey

		w, key, err = f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "PT1H", nil)
		require.NoError(t, err)
		require.Empty(t, key)
		require.NotEqual(t, before, *w.PublicKey)
		require.Equal(t, before, *w.PreviousPublicKey)
		opened, err := f.keyring.OpenSecret(w.SealedPreviousKey, w.ID)
		require.NoError(t, err)
		require.Equal(t, before, opened.PublicKey())
	})
}

// badInputs is each way in which a webhook can be wrong, and all that is said about it.
func badInputs() map[string]struct {
	change func(*control.WebhookInput)
	want   []found
} {
	many := func(n int) []string {
		steps := make([]string, n)
		for i := range steps {
			steps[i] = "PT1S"
		}
		return steps
	}
	header := func(name, value string) func(*control.WebhookInput) {
		return func(in *control.WebhookInput) { in.Headers = []control.HeaderInput{{Name: name, Value: &value}} }
	}
	url := func(u string) func(*control.WebhookInput) {
		return func(in *control.WebhookInput) { in.TargetURL = u }
	}
	types := func(names ...string) func(*control.WebhookInput) {
		return func(in *control.WebhookInput) { in.EventTypes = names }
	}
	timeout := func(d string) func(*control.WebhookInput) {
		return func(in *control.WebhookInput) { in.Timeout = &d }
	}
	one := func(code models.ProblemCode, path string) []found { return []found{{code, path}} }
	return map[string]struct {
		change func(*control.WebhookInput)
		want   []found
	}{
		"no name":                   {func(in *control.WebhookInput) { in.Name = "" }, one("REQUIRED", "input.name")},
		"blank name":                {func(in *control.WebhookInput) { in.Name = " \t" }, one("REQUIRED", "input.name")},
		"long name":                 {func(in *control.WebhookInput) { in.Name = strings.Repeat("é", 201) }, one("TOO_LONG", "input.name")},
		"name with line break":      {func(in *control.WebhookInput) { in.Name = "a\nb" }, one("INVALID", "input.name")},
		"name with NUL":             {func(in *control.WebhookInput) { in.Name = "a\x00b" }, one("INVALID", "input.name")},
		"name that turns round":     {func(in *control.WebhookInput) { in.Name = "a\u202eb" }, one("INVALID", "input.name")},
		"name not UTF-8":            {func(in *control.WebhookInput) { in.Name = "a\xffb" }, one("INVALID", "input.name")},
		"empty external id":         {func(in *control.WebhookInput) { in.ExternalID = new("") }, one("INVALID", "input.externalId")},
		"long external id":          {func(in *control.WebhookInput) { in.ExternalID = new(strings.Repeat("x", 201)) }, one("TOO_LONG", "input.externalId")},
		"external id with NUL":      {func(in *control.WebhookInput) { in.ExternalID = new("\x00") }, one("INVALID", "input.externalId")},
		"no URL":                    {url(""), one("REQUIRED", "input.targetUrl")},
		"relative URL":              {url("/hooks"), one("INVALID", "input.targetUrl")},
		"ftp":                       {url("ftp://crm.example/"), one("INVALID", "input.targetUrl")},
		"file":                      {url("file:///etc/passwd"), one("INVALID", "input.targetUrl")},
		"userinfo":                  {url("https://user:pass@crm.example/"), one("INVALID", "input.targetUrl")},
		"URL with line break":       {url("https://crm.example/\r\nX: y"), one("INVALID", "input.targetUrl")},
		"long URL":                  {url("https://crm.example/" + strings.Repeat("a", 2048)), one("TOO_LONG", "input.targetUrl")},
		"loopback":                  {url("http://127.0.0.1/"), one("FORBIDDEN_TARGET", "input.targetUrl")},
		"loopback in IPv6":          {url("http://[::1]/"), one("FORBIDDEN_TARGET", "input.targetUrl")},
		"metadata service":          {url("http://169.254.169.254/latest/meta-data/"), one("FORBIDDEN_TARGET", "input.targetUrl")},
		"name of a private address": {url("https://internal.example/"), one("FORBIDDEN_TARGET", "input.targetUrl")},
		"no event types":            {types(), one("REQUIRED", "input.eventTypes")},
		"unknown event type":        {types("participant.created", "participant.exploded"), one("UNKNOWN_EVENT_TYPE", "input.eventTypes.1")},
		"malformed pattern":         {types("participant.*.x"), one("INVALID", "input.eventTypes.0")},
		"star inside":               {types("part*"), one("INVALID", "input.eventTypes.0")},
		"notices by star":           {types("webhook.*"), one("INVALID", "input.eventTypes.0")},
		"empty event type":          {types(""), one("UNKNOWN_EVENT_TYPE", "input.eventTypes.0")},
		"event type twice":          {types("*", "*"), one("INVALID", "input.eventTypes.1")},
		"101 event types":           {types(many(101)...), one("TOO_LONG", "input.eventTypes")},
		"filter with a typo":        {func(in *control.WebhookInput) { in.Filter = new(`data.x ==`) }, one("INVALID_FILTER", "input.filter")},
		"long filter":               {func(in *control.WebhookInput) { in.Filter = new(strings.Repeat(" ", 4097)) }, one("TOO_LONG", "input.filter")},
		"broken payload query":      {func(in *control.WebhookInput) { in.PayloadQuery = new(`subscription {`) }, one("INVALID_PAYLOAD_QUERY", "input.payloadQuery")},
		"long payload query":        {func(in *control.WebhookInput) { in.PayloadQuery = new(strings.Repeat(" ", 16385)) }, one("TOO_LONG", "input.payloadQuery")},
		"reserved header":           {header("Webhook-Id", "x"), one("INVALID", "input.headers.0.name")},
		"host header":               {header("HOST", "x"), one("INVALID", "input.headers.0.name")},
		"content-type header":       {header("content-type", "x"), one("INVALID", "input.headers.0.name")},
		"header with a space":       {header("X Y", "x"), one("INVALID", "input.headers.0.name")},
		"header without a name":     {header("", "x"), one("REQUIRED", "input.headers.0.name")},
		"long header name":          {header(strings.Repeat("x", 101), "x"), one("TOO_LONG", "input.headers.0.name")},
		"header value with CR LF":   {header("X-A", "a\r\nX-B: c"), one("INVALID", "input.headers.0.value")},
		"header value with NUL":     {header("X-A", "a\x00"), one("INVALID", "input.headers.0.value")},
		"long header value":         {header("X-A", strings.Repeat("x", 4097)), one("TOO_LONG", "input.headers.0.value")},
		"the mask as a value":       {header("Authorization", "********"), one("INVALID", "input.headers.0.value")},
		"both parts of a header":    {header("host", "\n"), []found{{"INVALID", "input.headers.0.name"}, {"INVALID", "input.headers.0.value"}}},
		"header without a value":    {func(in *control.WebhookInput) { in.Headers = []control.HeaderInput{{Name: "X-A"}} }, one("REQUIRED", "input.headers.0.value")},
		"header twice": {func(in *control.WebhookInput) {
			in.Headers = []control.HeaderInput{{"X-A", new("1")}, {"x-a", new("2")}}
		}, one("INVALID", "input.headers.1.name")},
		"21 headers":                 {func(in *control.WebhookInput) { in.Headers = make([]control.HeaderInput, 21) }, one("TOO_LONG", "input.headers")},
		"timeout in Go's form":       {timeout("15s"), one("INVALID", "input.timeout")},
		"timeout of months":          {timeout("P1M"), one("INVALID", "input.timeout")},
		"zero timeout":               {timeout("PT0S"), one("INVALID", "input.timeout")},
		"negative timeout":           {timeout("-PT1S"), one("INVALID", "input.timeout")},
		"long timeout":               {timeout("PT60.001S"), one("INVALID", "input.timeout")},
		"timeout below milliseconds": {timeout("PT0.0015S"), one("INVALID", "input.timeout")},
		"zero step":                  {func(in *control.WebhookInput) { in.RetrySchedule = new([]string{"PT1S", "PT0S"}) }, one("INVALID", "input.retrySchedule.1")},
		"step over a week":           {func(in *control.WebhookInput) { in.RetrySchedule = new([]string{"P8D"}) }, one("INVALID", "input.retrySchedule.0")},
		"51 steps":                   {func(in *control.WebhookInput) { in.RetrySchedule = new(many(51)) }, one("TOO_LONG", "input.retrySchedule")},
		"zero rate":                  {func(in *control.WebhookInput) { in.RateLimitPerSecond = new(0) }, one("INVALID", "input.rateLimitPerSecond")},
		"negative rate":              {func(in *control.WebhookInput) { in.RateLimitPerSecond = new(-1) }, one("INVALID", "input.rateLimitPerSecond")},
		"enormous rate":              {func(in *control.WebhookInput) { in.RateLimitPerSecond = new(1_000_001) }, one("INVALID", "input.rateLimitPerSecond")},
		"unknown signing":            {func(in *control.WebhookInput) { in.Signing = "MD5" }, one("INVALID", "input.signing")},
		"empty tenant":               {func(in *control.WebhookInput) { in.Tenant = new("") }, one("INVALID", "input.tenant")},
		"long tenant":                {func(in *control.WebhookInput) { in.Tenant = new(strings.Repeat("t", 101)) }, one("INVALID", "input.tenant")},
		"tenant with NUL":            {func(in *control.WebhookInput) { in.Tenant = new("a\x00") }, one("INVALID", "input.tenant")},
		"everything at once": {func(in *control.WebhookInput) {
			*in = control.WebhookInput{
				ExternalID: new(""), TargetURL: "http://10.0.0.1/", EventTypes: []string{"nope"}, Filter: new("(("), PayloadQuery: new("{"),
				Headers: []control.HeaderInput{{"host", new("\n")}}, Timeout: new("x"), RetrySchedule: new([]string{"y", "z"}),
				RateLimitPerSecond: new(0), Signing: "x", Tenant: new(""),
			}
		}, []found{
			{"INVALID", "input.externalId"},
			{"REQUIRED", "input.name"},
			{"FORBIDDEN_TARGET", "input.targetUrl"},
			{"UNKNOWN_EVENT_TYPE", "input.eventTypes.0"},
			{"INVALID_FILTER", "input.filter"},
			{"INVALID_PAYLOAD_QUERY", "input.payloadQuery"},
			{"INVALID", "input.headers.0.name"},
			{"INVALID", "input.headers.0.value"},
			{"INVALID", "input.timeout"},
			{"INVALID", "input.retrySchedule.0"},
			{"INVALID", "input.retrySchedule.1"},
			{"INVALID", "input.rateLimitPerSecond"},
			{"INVALID", "input.signing"},
			{"INVALID", "input.tenant"},
		}},
	}
}

func TestBadInputSavesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for name, tt := range badInputs() {
			_, key, err := f.CreateWebhook(t.Context(), f.platform, input(tt.change))
			t.Log(name)
			requireProblems(t, err, tt.want...)
			require.Empty(t, key)
		}
		all, err := f.store.Tenant(models.Reach{All: true}).Webhooks(t.Context(), models.WebhookFilter{}, models.Page{})
		require.NoError(t, err)
		require.Empty(t, all.Items)
	})
}

// What is refused at creation is refused in an update, under the same path, and changes nothing.
func TestBadUpdateSavesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		for name, tt := range badInputs() {
			in := input(tt.change)
			if in.Tenant != nil || in.Signing != "" {
				continue // these are not in an update
			}
			_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{
				ExternalID: control.Field[string]{Set: in.ExternalID != nil, Value: in.ExternalID},
				Name:       set(in.Name), TargetURL: set(in.TargetURL), EventTypes: set(in.EventTypes),
				Filter:             control.Field[string]{Set: in.Filter != nil, Value: in.Filter},
				PayloadQuery:       control.Field[string]{Set: in.PayloadQuery != nil, Value: in.PayloadQuery},
				Headers:            set(in.Headers),
				Timeout:            control.Field[string]{Set: in.Timeout != nil, Value: in.Timeout},
				RetrySchedule:      control.Field[[]string]{Set: in.RetrySchedule != nil, Value: in.RetrySchedule},
				RateLimitPerSecond: control.Field[int]{Set: in.RateLimitPerSecond != nil, Value: in.RateLimitPerSecond},
			}, nil)
			t.Log(name)
			requireProblems(t, err, tt.want...)
		}
		for name, change := range map[string]control.WebhookChange{
			"name":       {Name: null[string]()},
			"targetUrl":  {TargetURL: null[string]()},
			"eventTypes": {EventTypes: null[[]string]()},
		} {
			_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, change, nil)
			requireProblems(t, err, found{"REQUIRED", "input." + name})
		}
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, stored)
	})
}

func TestNameWithoutAddressIsAllowed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, func(in *control.WebhookInput) { in.TargetURL = "https://missing.example/" })
		require.Equal(t, "https://missing.example/", w.TargetURL)
	})
}

func TestURLIsShownAsItIsDialled(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		for given, want := range map[string]string{
			"HTTPS://Bücher.Example/Päth": "",
			"HTTPS://Bücher.Example/Path": "https://xn--bcher-kva.example/Path",
			"https://CRM.example:8443":    "https://crm.example:8443",
			"http://crm.example/a?b=%20c": "http://crm.example/a?b=%20c",
		} {
			w, _, err := f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { in.TargetURL = given }))
			if want == "" {
				requireProblems(t, err, found{"INVALID", "input.targetUrl"})
				continue
			}
			require.NoError(t, err)
			require.Equal(t, want, w.TargetURL)
		}
	})
}

func TestUpdateWebhook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		full := func(in *control.WebhookInput) {
			in.ExternalID, in.Filter, in.Timeout = new("x"), new("true"), new("PT1S")
			in.RetrySchedule, in.RateLimitPerSecond = new([]string{"PT1S"}), new(1)
			in.Headers = []control.HeaderInput{{"X-A", new("1")}}
		}
		w := f.create(t, full)
		lookups := f.lookups.count

		same, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{}, nil)
		require.NoError(t, err)
		require.Equal(t, w, same, "absent fields keep their values")

		renamed, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{Name: set("New"), TargetURL: set(w.TargetURL)}, new(1))
		require.NoError(t, err)
		require.Equal(t, 2, renamed.Version)
		require.Equal(t, lookups, f.lookups.count, "a URL that stays is not looked up again")
		want := w
		want.Name, want.Version, want.Revision = "New", 2, 2
		want.Epoch, want.UpdatedAt = renamed.Epoch, renamed.UpdatedAt
		require.Equal(t, want, renamed)

		cleared, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{
			ExternalID: null[string](), Filter: null[string](), PayloadQuery: null[string](), Headers: null[[]control.HeaderInput](),
			Timeout: null[string](), RetrySchedule: null[[]string](), RateLimitPerSecond: null[int](),
		}, new(2))
		require.NoError(t, err)
		require.Nil(t, cleared.ExternalID)
		require.Nil(t, cleared.Filter)
		require.Nil(t, cleared.Timeout)
		require.Nil(t, cleared.RetrySchedule)
		require.Nil(t, cleared.RateLimitPerSecond)
		require.Empty(t, cleared.SealedHeaders)
		require.Equal(t, w.SealedKey, cleared.SealedKey)

		changed, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{
			ExternalID: set("y"), TargetURL: set("https://new.example/"), EventTypes: set([]string{"*"}), Filter: set("false"),
			Timeout: set("PT2S"), RetrySchedule: set([]string{}), RateLimitPerSecond: set(7),
		}, new(3))
		require.NoError(t, err)
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, changed, stored)
		require.Equal(t, "https://new.example/", stored.TargetURL)
		require.Equal(t, models.StringList{"*"}, stored.EventTypes)
		require.Equal(t, 7, *stored.RateLimitPerSecond)
		require.Equal(t, models.Schedule{}, *stored.RetrySchedule)
	})
}

func TestExpectedVersion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{Name: set("")}, new(9))
		problems := requireProblems(t, err, found{"REQUIRED", "input.name"}, found{"CONFLICT", "expectedVersion"})
		require.Equal(t, w.ID, *problems[1].ConflictingID)

		lost := race(12, func(i int) error {
			_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{Name: set("n" + strconv.Itoa(i))}, new(1))
			return err
		})
		require.Len(t, lost, 11, "one winner")
		for _, err := range lost {
			requireProblems(t, err, found{"CONFLICT", "expectedVersion"})
		}
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, 2, stored.Version)
	})
}

// Updates that name no version do not undo each other: each changes what it names.
func TestUpdatesOfDifferentFieldsBothHold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		changes := []control.WebhookChange{
			{Name: set("renamed")},
			{Filter: set("true")},
			{RateLimitPerSecond: set(3)},
			{Timeout: set("PT3S")},
			{Headers: set([]control.HeaderInput{{"X-A", new("1")}})},
			{EventTypes: set([]string{"*"})},
			{ExternalID: set("e")},
		}
		require.Empty(t, race(len(changes), func(i int) error {
			_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, changes[i], nil)
			return err
		}))
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, 1+len(changes), stored.Version)
		require.Equal(t, "renamed", stored.Name)
		require.Equal(t, "true", *stored.Filter)
		require.Equal(t, 3, *stored.RateLimitPerSecond)
		require.Equal(t, models.Millis(3*time.Second), *stored.Timeout)
		require.NotEmpty(t, stored.SealedHeaders)
		require.Equal(t, models.StringList{"*"}, stored.EventTypes)
		require.Equal(t, "e", *stored.ExternalID)
	})
}

func TestExternalIDIsUnique(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		withID := func(in *control.WebhookInput) { in.ExternalID = new("crm") }
		first := f.create(t, withID)
		_, key, err := f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { withID(in); in.Name = "" }))
		problems := requireProblems(t, err, found{"CONFLICT", "input.externalId"}, found{"REQUIRED", "input.name"})
		require.Empty(t, key)
		for _, p := range problems {
			if p.Code == models.CodeConflict {
				require.Equal(t, first.ID, *p.ConflictingID)
			}
		}
		_, _, err = f.CreateWebhook(t.Context(), f.other, input(withID))
		require.NoError(t, err, "another tenant's are its own")

		second := f.create(t, nil)
		_, err = f.UpdateWebhook(t.Context(), f.acme, second.ID, control.WebhookChange{ExternalID: set("crm")}, nil)
		requireProblems(t, err, found{"CONFLICT", "input.externalId"})
		_, err = f.UpdateWebhook(t.Context(), f.acme, first.ID, control.WebhookChange{ExternalID: set("crm"), Name: set("same")}, nil)
		require.NoError(t, err, "a webhook does not conflict with itself")

		require.NoError(t, f.DeleteWebhook(t.Context(), f.acme, first.ID))
		_, err = f.UpdateWebhook(t.Context(), f.acme, second.ID, control.WebhookChange{ExternalID: set("crm")}, nil)
		require.NoError(t, err, "a deleted webhook is not in the way")
	})
}

func TestRacingCreatesMakeOneWebhook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		lost := race(10, func(int) error {
			_, _, err := f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { in.ExternalID = new("one") }))
			return err
		})
		require.Len(t, lost, 9, "one winner")
		for _, err := range lost {
			problems := requireProblems(t, err, found{"CONFLICT", "input.externalId"})
			require.NotNil(t, problems[0].ConflictingID)
		}
	})
}

func TestTenants(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w, _, err := f.CreateWebhook(t.Context(), f.platform, input(nil))
		require.NoError(t, err)
		require.Equal(t, models.DefaultTenant, w.Tenant)
		w, _, err = f.CreateWebhook(t.Context(), f.platform, input(func(in *control.WebhookInput) { in.Tenant = new("acme") }))
		require.NoError(t, err)
		require.Equal(t, "acme", w.Tenant)
		_, _, err = f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { in.Tenant = new("acme") }))
		require.NoError(t, err)
		_, _, err = f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) { in.Tenant = new("other"); in.Name = "" }))
		require.ErrorIs(t, err, auth.ErrForbiddenTenant)

		// Each mutation answers for another tenant's object exactly as for none.
		missing := models.NewID(models.PrefixWebhook)
		calls := map[string]func(p *auth.Principal, id string) error{
			"update": func(p *auth.Principal, id string) error {
				_, err := f.UpdateWebhook(t.Context(), p, id, control.WebhookChange{Name: set("")}, new(9))
				return err
			},
			"delete": func(p *auth.Principal, id string) error { return f.DeleteWebhook(t.Context(), p, id) },
			"pause": func(p *auth.Principal, id string) error {
				_, err := f.PauseWebhook(t.Context(), p, id)
				return err
			},
			"resume": func(p *auth.Principal, id string) error {
				_, err := f.ResumeWebhook(t.Context(), p, id)
				return err
			},
			"disable": func(p *auth.Principal, id string) error {
				_, err := f.DisableWebhook(t.Context(), p, id)
				return err
			},
			"rotate": func(p *auth.Principal, id string) error {
				_, _, err := f.RotateWebhookSecretKey(t.Context(), p, id, "nonsense", new(9))
				return err
			},
			"test": func(p *auth.Principal, id string) error {
				_, err := f.TestWebhook(t.Context(), p, id, new("nope"), nil)
				return err
			},
		}
		for name, call := range calls {
			t.Log(name)
			want := requireProblems(t, call(f.other, missing), found{"NOT_FOUND", "id"})
			require.Equal(t, want, requireProblems(t, call(f.other, w.ID), found{"NOT_FOUND", "id"}))
			require.Equal(t, want, requireProblems(t, call(f.acme, "nonsense"), found{"NOT_FOUND", "id"}))
		}
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, stored)

		require.NoError(t, f.DeleteWebhook(t.Context(), f.acme, w.ID))
		for name, call := range calls {
			t.Log(name, "of a deleted webhook")
			requireProblems(t, call(f.acme, w.ID), found{"NOT_FOUND", "id"})
		}
	})
}

func TestArchivedTypeTakesNoNewSubscriptions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		_, err := f.store.UpsertEventType(t.Context(), "participant.created", func(e *models.EventType) error {
			e.Status = models.EventTypeArchived
			return nil
		})
		require.NoError(t, err)
		_, _, err = f.CreateWebhook(t.Context(), f.acme, input(nil))
		var problems models.Problems
		require.ErrorAs(t, err, &problems)
		require.Len(t, problems, 1)
		require.Equal(t, []string{"input", "eventTypes", "0"}, problems[0].Path)
		_, err = f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{
			EventTypes: set([]string{"participant.created", "message.sent"}),
		}, nil)
		require.NoError(t, err, "a subscription that was there stays")
	})
}
