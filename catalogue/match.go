package catalogue

import (
	"cmp"
	"slices"
	"strings"
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
	s := newSubject(ev)
	matches := make([]Match, len(subs))
	for i, sub := range subs {
		matches[i] = Match{Webhook: sub.webhook, Decision: ix.catalogue.decide(&sub.rule, s)}
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
	deleted      bool
}

func ruleOf(w *models.Webhook) rule {
	return rule{patterns: w.EventTypes, filter: w.Filter, payloadQuery: w.PayloadQuery, status: w.Status}
}

// subject is an event while it is matched.
type subject struct{ event Event }

func newSubject(ev Event) *subject { return &subject{event: ev} }

// decide gives the verdict for a rule that is subscribed.
func (c *Catalogue) decide(r *rule, _ *subject) Decision {
	if r.filter != nil || r.payloadQuery != nil {
		return Decision{Verdict: FilterError, Detail: "Filters and payload queries are not offered yet."}
	}
	switch r.status {
	case models.WebhookDisabled:
		return Decision{Verdict: Disabled, Detail: "The webhook was disabled."}
	case models.WebhookPaused:
		return Decision{Verdict: Paused, Detail: "The webhook was paused."}
	case models.WebhookActive:
	}
	return Decision{Verdict: Matched}
}
