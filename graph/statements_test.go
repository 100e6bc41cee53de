package graph_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
)

// statements counts what is executed on a Postgres: the messages Bind and Query of its protocol.
type statements struct {
	mu    sync.Mutex
	count int
	rest  map[int][]byte // of each connection, what is not a whole message yet
	begun map[int]bool   // whether the first message, which has no type, has passed
}

func (s *statements) see(connection int, direction testenv.Direction, chunk []byte) testenv.Verdict {
	if direction != testenv.ToServer {
		return testenv.Pass
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := slices.Concat(s.rest[connection], chunk)
	for {
		head := 1
		if !s.begun[connection] {
			head = 0
		}
		if len(b) < head+4 {
			break
		}
		size := head + int(binary.BigEndian.Uint32(b[head:]))
		if len(b) < size {
			break
		}
		if head == 1 && (b[0] == 'B' || b[0] == 'Q') {
			s.count++
		}
		s.begun[connection] = true
		b = b[size:]
	}
	s.rest[connection] = b
	return testenv.Pass
}

func (s *statements) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count = 0
}

func (s *statements) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// A list costs the same few statements however long it is. How few is not told: on a busy machine the
// keys of a page may come to a loader in several goes. One for each entry would be as many as there
// are entries, and that is what no list costs.
func TestListsHaveNoStatementPerEntry(t *testing.T) {
	t.Parallel()
	const entries = 25
	database := testenv.PostgresURL(t)
	proxy := testenv.NewProxy(t, database)
	counted := &statements{rest: map[int][]byte{}, begun: map[int]bool{}}
	proxy.SetHook(counted.see)
	f := setupOn(t, proxy.URL(database))
	for i := range entries {
		f.create(t, f.manage, fmt.Sprintf("w%d", i), "participant.created")
	}
	f.create(t, f.manage, "all")
	f.emitted(t, f.emit, "participant.created", `{}`)
	for range entries {
		f.emitted(t, f.emit, "message.sent", `{}`)
	}
	v := get[tree](t, f, f.read, `{ deliveries(first: 25) { nodes { id } } }`, nil)
	var attempts []string
	for _, d := range v.at("deliveries", "nodes").([]any) {
		id := d.(map[string]any)["id"].(string)
		f.attempt(t, id, models.OutcomeHTTPError, models.OutcomeSuccess)
		attempts = append(attempts, models.AttemptID(id, 1), models.AttemptID(id, 2))
	}
	assert.Len(t, attempts, 2*entries)
	for name, query := range map[string]string{
		"webhooks":                `{ webhooks(first: 25) { nodes { id name headers { name } } totalCount } }`,
		"their health":            `{ webhooks(first: 25) { nodes { health { successRate p95LatencyMs consecutiveFailures } } } }`,
		"their deliveries":        `{ webhooks(first: 25) { nodes { deliveries(first: 3) { nodes { id webhook { id } } } } } }`,
		"their deliveries, twice": `{ webhooks(first: 25) { nodes { a: deliveries(first: 3) { nodes { id } } b: deliveries(first: 4) { nodes { id } } } } }`,
		"their statistics":        `{ webhooks(first: 25) { nodes { stats { total buckets { attempts } } } } }`,
		"events":                  `{ events(first: 25) { nodes { id data deliveries { nodes { id event { id } } } } } }`,
		"deliveries":              `{ deliveries(first: 25) { nodes { event { id } webhook { id } lastAttempt { number } attempts { number delivery { id } } } } }`,
		"bodies":                  `{ deliveries(first: 25) { nodes { attempts { request { body } } } } }`,
		"event types":             `{ eventTypes { nodes { name graphqlType } } }`,
		"nodes":                   `query($ids: [ID!]!) { nodes(ids: $ids) { id ... on Attempt { delivery { webhook { name } } } } }`,
	} {
		get[tree](t, f, f.read, query, variables{"ids": attempts}) // what is prepared once is prepared
		counted.reset()
		get[tree](t, f, f.read, query, variables{"ids": attempts})
		assert.Lessf(t, counted.total(), entries, "%s", name)
		assert.Positivef(t, counted.total(), "%s", name)
		t.Logf("%s: %d", name, counted.total())
	}
}
