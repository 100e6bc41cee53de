package catalogue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// kibibyte is an event of 1 KiB with what a CRM would select somewhere in it.
func kibibyte() string {
	head := `{"participant":{"id":"prt_8f3k2m","email":"ada.byron@example.com","name":"Ada Byron","phone":"+442079460123","locale":"en-GB",` +
		`"tags":[{"id":"tag_1","name":"Newsletter"},{"id":"tag_2","name":"VIP"}],"attributes":{"plan":"trial","seats":5,"note":"`
	tail := `"},"createdAt":"2026-03-14T09:26:53Z","updatedAt":"2026-03-14T09:26:53Z"}}`
	return head + strings.Repeat("x", 1024-len(head)-len(tail)) + tail
}

func benchEvent() catalogue.Event {
	return catalogue.Event{ID: "evt_1", Type: "participant.created", Timestamp: time.Unix(1_800_000_000, 0), Data: kibibyte()}
}

// BenchmarkProject is one projection of a 1 KiB event; 5,000 ns/op are 200,000 a second.
func BenchmarkProject(b *testing.B) {
	c, err := catalogue.New(catalogue.Builtin())
	require.NoError(b, err)
	shape, problems := c.CompilePayloadQuery(`subscription { event { ... on ParticipantCreated {
		participant { id email name mobile: phone tags { name } attributes createdAt } } } }`, nil)
	require.Empty(b, problems)
	s := catalogue.NewSubject(benchEvent())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shape.Body(s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatch is one event matched with 10,000 webhooks of a tenant; the aim is under 10 ms.
func BenchmarkMatch(b *testing.B) {
	text := func(s string) *string { return &s }
	query := text(`subscription { event { ... on ParticipantCreated { participant { id email } } } }`)
	for name, make := range map[string]func(i int) models.Webhook{
		"no filter": func(int) models.Webhook { return models.Webhook{EventTypes: models.StringList{"participant.*"}} },
		"equal filters": func(int) models.Webhook {
			return models.Webhook{EventTypes: models.StringList{"participant.created"}, Filter: text(`data.participant.locale == "en-GB"`)}
		},
		"own filters": func(i int) models.Webhook {
			return models.Webhook{EventTypes: models.StringList{"participant.created"}, Filter: text(fmt.Sprintf(`data.participant.id == "prt_%d"`, i))}
		},
		"own long filters": func(i int) models.Webhook {
			return models.Webhook{EventTypes: models.StringList{"participant.created"}, Filter: text(fmt.Sprintf(`data.participant.locale == "en-GB" && has(data.participant.attributes.seats) && data.participant.attributes.seats > %d`, i))}
		},
		"payload queries": func(int) models.Webhook {
			return models.Webhook{EventTypes: models.StringList{"*"}, PayloadQuery: query}
		},
	} {
		b.Run(name, func(b *testing.B) {
			c, err := catalogue.New(catalogue.Builtin())
			require.NoError(b, err)
			webhooks := []models.Webhook{}
			for i := range 10_000 {
				w := make(i)
				w.ID, w.Status = fmt.Sprintf("wh_%d", i), models.WebhookActive
				webhooks = append(webhooks, w)
			}
			start := time.Now()
			ix := c.Index(webhooks)
			ev := benchEvent()
			matches := ix.Match(ev)
			b.ReportMetric(float64(time.Since(start).Milliseconds()), "first-ms")
			require.Len(b, matches, 10_000)
			require.NotEqual(b, catalogue.FilterError, matches[0].Verdict, matches[0].Detail)
			b.ReportAllocs()
			for b.Loop() {
				ix.Match(ev)
			}
		})
	}
}
