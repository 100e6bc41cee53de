package catalogue_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

func TestBuiltin_CarriesWhatAMirrorNeeds(t *testing.T) {
	t.Parallel()
	want := map[string]struct{ title, query, shaped string }{
		"participant.created": {
			"Participant Created",
			`... on ParticipantCreated { participant { id email name phone locale createdAt } }`,
			`{"participant":{"id":"prt_8f3k2m","email":"ada.byron@example.com","name":"Ada Byron","phone":"+442079460123","locale":"en-GB","createdAt":"2026-03-14T09:26:53Z"}}`,
		},
		"participant.profile_updated": {
			"Participant Profile Updated",
			`... on ParticipantProfileUpdated { participant { id } changes { field before after } }`,
			`{"participant":{"id":"prt_8f3k2m"},"changes":[{"field":"phone","before":"+442079460123","after":"+442079460999"},{"field":"attributes.plan","before":"trial","after":"team"}]}`,
		},
		"participant.tags_added": {
			"Participant Tags Added",
			`... on ParticipantTagsAdded { tags { id name } }`,
			`{"tags":[{"id":"tag_vip","name":"VIP"},{"id":"tag_webinar","name":"Spring Webinar"}]}`,
		},
		"message.sent": {
			"Message Sent",
			`... on MessageSent { message { id channel direction sentAt attachments { size } } participant { id } }`,
			`{"message":{"id":"msg_5t9x1c","channel":"email","direction":"outbound","sentAt":"2026-03-14T09:27:10Z","attachments":[{"size":184213}]},"participant":{"id":"prt_8f3k2m"}}`,
		},
	}
	c := newCatalogue(t)
	builtin := catalogue.Builtin()
	require.Len(t, builtin, len(want))
	for _, b := range builtin {
		w := want[b.Name]
		require.Equal(t, w.title, b.Title)
		require.NotEmpty(t, *b.Description)
		require.True(t, b.Builtin)
		require.Empty(t, c.CheckType(b))
		shape, problems := c.CompilePayloadQuery("subscription { event { "+w.query+" } }", []string{b.Name})
		require.Empty(t, problems)
		shaped, err := shape.Body(catalogue.NewSubject(event(b.Name, *b.Example)))
		require.NoError(t, err)
		require.Equal(t, w.shaped, shaped)
	}
}

func TestNew_KnowsNoticesAndRefusesDoubles(t *testing.T) {
	t.Parallel()
	c, err := catalogue.New(nil)
	require.NoError(t, err)
	for _, name := range []string{"webhook.failing", "webhook.disabled"} {
		notice, ok := c.Type(name)
		require.True(t, ok)
		require.True(t, json.Valid([]byte(*notice.Example)))
	}
	_, err = catalogue.New(append(catalogue.Builtin(), catalogue.Notices()...))
	require.NoError(t, err)
	_, err = catalogue.New(append(catalogue.Builtin(), catalogue.Builtin()...))
	require.ErrorContains(t, err, "comes twice")
}

func TestMatchPattern(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		pattern, eventType string
		want               bool
	}{
		"exact":                         {"participant.created", "participant.created", true},
		"another":                       {"participant.created", "participant.deleted", false},
		"prefix":                        {"participant.*", "participant.created", true},
		"prefix of several words":       {"participant.*", "participant.tag.added", true},
		"longer prefix":                 {"participant.tag.*", "participant.tag.added", true},
		"prefix is not its plural":      {"participant.*", "participants.created", false},
		"prefix is not the word itself": {"participant.*", "participant", false},
		"prefix with nothing after it":  {"participant.*", "participant.", false},
		"all":                           {"*", "anything.at_all", true},
		"all but notices":               {"*", "webhook.failing", false},
		"notices by prefix":             {"webhook.*", "webhook.failing", false},
		"notices by name":               {"webhook.failing", "webhook.failing", true},
		"no dot before the star":        {"part*", "participant.created", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, catalogue.MatchPattern(tt.pattern, tt.eventType))
		})
	}
}

// Pattern and name are compared word by word, whatever the words are.
func TestMatchPattern_ComparesWords(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"a", "b", "ab", "a_b", "webhook", "1"})
		pattern := rapid.SliceOfN(word, 1, 3).Draw(t, "pattern")
		name := rapid.SliceOfN(word, 2, 4).Draw(t, "name")
		want := name[0] != "webhook" && len(name) > len(pattern)
		for i := range min(len(pattern), len(name)) {
			want = want && pattern[i] == name[i]
		}
		require.Equal(t, want, catalogue.MatchPattern(strings.Join(pattern, ".")+".*", strings.Join(name, ".")))
	})
}

func TestCheckPatterns(t *testing.T) {
	t.Parallel()
	archived := typed("order.paid", `{}`)
	archived.Status = models.EventTypeArchived
	deprecated := typed("order.shipped", `{}`)
	deprecated.Status = models.EventTypeDeprecated
	c := newCatalogue(t, archived, deprecated)
	many := make([]string, 101)
	for i := range many {
		many[i] = "participant.created"
	}
	tests := map[string]struct {
		patterns []string
		code     models.ProblemCode
		message  string
	}{
		"exact":              {patterns: []string{"participant.created", "message.sent"}},
		"prefix":             {patterns: []string{"participant.*"}},
		"all":                {patterns: []string{"*"}},
		"types added later":  {patterns: []string{"invoice.*"}},
		"a notice":           {patterns: []string{"webhook.failing"}},
		"deprecated":         {patterns: []string{"order.shipped"}},
		"none":               {patterns: nil, code: models.CodeRequired, message: "at least one"},
		"too many":           {patterns: many, code: models.CodeTooLarge, message: "at most 100"},
		"twice":              {patterns: []string{"message.sent", "message.sent"}, code: models.CodeInvalid, message: "twice"},
		"unknown":            {patterns: []string{"participant.craeted"}, code: models.CodeUnknownEventType, message: `did you mean "participant.created"?`},
		"unknown and far":    {patterns: []string{"xyz"}, code: models.CodeUnknownEventType, message: `"xyz" does not exist`},
		"empty":              {patterns: []string{""}, code: models.CodeUnknownEventType, message: "does not exist"},
		"archived":           {patterns: []string{"order.paid"}, code: models.CodeNotAllowedNow, message: "archived"},
		"star in the middle": {patterns: []string{"a.*.b"}, code: models.CodeInvalid, message: "not a pattern"},
		"half a word":        {patterns: []string{"part*"}, code: models.CodeInvalid, message: "not a pattern"},
		"two stars":          {patterns: []string{"**"}, code: models.CodeInvalid, message: "not a pattern"},
		"capitals":           {patterns: []string{"Participant.*"}, code: models.CodeInvalid, message: "not a pattern"},
		"all notices":        {patterns: []string{"webhook.*"}, code: models.CodeInvalid, message: "webhook.failing"},
		"long":               {patterns: []string{strings.Repeat("a", 300)}, code: models.CodeUnknownEventType, message: "…"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.CheckPatterns(tt.patterns)
			if tt.code == "" {
				require.Empty(t, problems)
				return
			}
			p := only(t, problems)
			require.Equal(t, tt.code, p.Code)
			require.Contains(t, p.Message, tt.message)
			require.Nil(t, p.Path)
		})
	}
}

func TestCheckPatterns_ReportsAll(t *testing.T) {
	t.Parallel()
	require.Len(t, newCatalogue(t).CheckPatterns([]string{"nope", "part*", "message.sent", "message.sent"}), 3)
}
