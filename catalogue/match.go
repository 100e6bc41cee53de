package catalogue

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/intervengine/webhooks/models"
)

// Verdict says what becomes of an event at a webhook. The values are the API's.
type Verdict string

// The verdicts, in the order in which they are decided: the first that holds is given.
const (
	CreatedLater  Verdict = "CREATED_LATER" // decided by the caller, who knows the times
	NotSubscribed Verdict = "NOT_SUBSCRIBED"
	FilteredOut   Verdict = "FILTERED_OUT"
	FilterError   Verdict = "FILTER_ERROR" // the filter or the payload query could not be evaluated
	Disabled      Verdict = "DISABLED"
	Paused        Verdict = "PAUSED"
	Matched       Verdict = "MATCHED"
)

// Event is what is matched.
type Event struct {
	ID        string
	Type      string
	Timestamp time.Time
	Data      string // a JSON object, as text
}

// Decision is a verdict and what follows from it.
type Decision struct {
	Verdict Verdict
	Detail  string // one sentence for a person: what decided
	// Body is data as the payload query shapes it; nil where the webhook has none or gets nothing.
	Body *string
}

// Match is the decision for one webhook of an Index.
type Match struct {
	Webhook *models.Webhook // read only: it is the Index's own
	Decision
}

// Index is a tenant's webhooks, ready to be matched. It is immutable and safe for concurrent use.
type Index struct {
	catalogue *Catalogue
	subs      []*subscription
	exact     map[string][]*subscription
	prefixes  map[string][]*subscription // by what comes before the star
	any       []*subscription
}

// subscription is what deciding about one webhook needs.
type subscription struct {
	position int
	webhook  *models.Webhook
	rule     rule
	compiled atomic.Pointer[compiledRule] // nil until the first event
}

// Index prepares webhooks for matching. Deleted ones are left out.
func (c *Catalogue) Index(webhooks []models.Webhook) *Index {
	ix := &Index{catalogue: c, exact: map[string][]*subscription{}, prefixes: map[string][]*subscription{}}
	for i := range webhooks {
		w := &webhooks[i]
		if w.DeletedAt != nil {
			continue
		}
		sub := &subscription{position: len(ix.subs), webhook: w, rule: ruleOf(w)}
		ix.subs = append(ix.subs, sub)
		for _, p := range w.EventTypes {
			switch prefix, isPrefix := strings.CutSuffix(p, "*"); {
			case !isPrefix:
				ix.exact[p] = append(ix.exact[p], sub)
			case prefix == "":
				ix.any = append(ix.any, sub)
			default:
				ix.prefixes[prefix] = append(ix.prefixes[prefix], sub)
			}
		}
	}
	return ix
}

// Match decides about every webhook that is subscribed to the event's type, in the order that
// Index got them. The others are NotSubscribed.
func (ix *Index) Match(ev Event) []Match {
	subs := ix.subscribed(ev.Type)
	if len(subs) == 0 {
		return nil
	}
	s := NewSubject(ev)
	matches := make([]Match, len(subs))
	for i, sub := range subs {
		compiled := sub.compiled.Load()
		if compiled == nil {
			compiled = ix.catalogue.compile(&sub.rule)
			sub.compiled.Store(compiled)
		}
		matches[i] = Match{Webhook: sub.webhook, Decision: decide(&sub.rule, compiled, s)}
	}
	return matches
}

// subscribed gives the webhooks that have a pattern for this type, each once, in order.
func (ix *Index) subscribed(eventType string) []*subscription {
	lists := [][]*subscription{ix.exact[eventType]}
	if !strings.HasPrefix(eventType, noticePrefix) {
		lists = append(lists, ix.any)
		for i := range len(eventType) - 1 {
			if eventType[i] == '.' {
				lists = append(lists, ix.prefixes[eventType[:i+1]])
			}
		}
	}
	lists = slices.DeleteFunc(lists, func(l []*subscription) bool { return len(l) == 0 })
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return slices.Compact(slices.Clone(lists[0]))
	}
	all := slices.Concat(lists...)
	slices.SortFunc(all, func(a, b *subscription) int { return cmp.Compare(a.position, b.position) })
	return slices.Compact(all)
}

// rule is the part of a webhook, or of one of its revisions, that decides.
type rule struct {
	patterns     []string
	filter       *string
	payloadQuery *string
	status       models.WebhookStatus
}

func ruleOf(w *models.Webhook) rule {
	return rule{patterns: w.EventTypes, filter: w.Filter, payloadQuery: w.PayloadQuery, status: w.Status}
}

// decide gives the verdict for a rule that is subscribed.
func decide(r *rule, compiled *compiledRule, s *Subject) Decision {
	if compiled.broken != "" {
		return Decision{Verdict: FilterError, Detail: compiled.broken}
	}
	if compiled.filter != nil {
		pass, detail, err := compiled.filter.Pass(s)
		if err != nil {
			return Decision{Verdict: FilterError, Detail: "The filter failed: " + err.Error() + "."}
		}
		if !pass {
			return Decision{Verdict: FilteredOut, Detail: detail}
		}
	}
	d := Decision{Verdict: Matched}
	switch r.status {
	case models.WebhookDisabled:
		d = Decision{Verdict: Disabled, Detail: "The webhook was disabled when the event came."}
	case models.WebhookPaused:
		d = Decision{Verdict: Paused, Detail: "The webhook was paused when the event came."}
	case models.WebhookActive:
	}
	if compiled.shape != nil {
		text, err := s.body(compiled.shape)
		if err != nil {
			return Decision{Verdict: FilterError, Detail: "The payload query failed: " + err.Error() + "."}
		}
		d.Body = &text
	}
	return d
}

// Decide gives the verdict of one webhook, saved or not, as it is now.
func (c *Catalogue) Decide(w *models.Webhook, s *Subject) Decision {
	r := ruleOf(w)
	if !MatchPatterns(r.patterns, s.event.Type) {
		return notSubscribed(s.event.Type)
	}
	return decide(&r, c.compile(&r), s)
}

// Shaped gives data as the webhook's payload query makes it of an event, whatever the webhook
// subscribes to and its filter says: what a test sends. It is nil where the webhook has none.
func (c *Catalogue) Shaped(w *models.Webhook, s *Subject) (*string, error) {
	if w.PayloadQuery == nil {
		return nil, nil //nolint:nilnil // data as it is
	}
	shape, problems := c.CompilePayloadQuery(*w.PayloadQuery, w.EventTypes)
	if len(problems) > 0 {
		return nil, errors.New("the payload query no longer compiles: " + problems[0].Message)
	}
	text, err := s.body(shape)
	if err != nil {
		return nil, fmt.Errorf("the payload query failed: %w", err)
	}
	return &text, nil
}

// Explain gives the verdict that a revision of a webhook gave for an event when it was in force.
// It is what the revision says, whatever the schemas have become since. One thing it cannot know:
// that a schema was forced and broke the filter or the payload query before the event came. Such an
// event has a delivery that is SKIPPED with FILTER_ERROR, which then is the truth.
func (c *Catalogue) Explain(rev models.Revision, s *Subject) Decision {
	r := rule{patterns: rev.EventTypes, filter: rev.Filter, payloadQuery: rev.PayloadQuery, status: rev.Status}
	if rev.Deleted || !MatchPatterns(r.patterns, s.event.Type) {
		return notSubscribed(s.event.Type)
	}
	return decide(&r, c.compilePast(&r), s)
}

func notSubscribed(eventType string) Decision {
	return Decision{Verdict: NotSubscribed, Detail: "The webhook was not subscribed to " + eventType + "."}
}
