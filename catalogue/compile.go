package catalogue

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxCached bounds each cache of what was compiled.
	maxCached = 32_768
	// maxEnvs bounds the environments that are kept: one for each set of schemas.
	maxEnvs = 256
)

// cache keeps values by key, at most twice maxCached of them: when the new ones are that many, the
// old ones that nobody asked for since are forgotten. The zero cache is empty and ready. It is
// safe for concurrent use.
type cache[K comparable, V any] struct {
	mu         sync.Mutex
	fresh, old map[K]V
}

// get gives the value of key, making it where it is missing. Two callers may make it at once; both
// get the one that was first.
func (c *cache[K, V]) get(key K, most int, make func() V) V {
	if v, ok := c.find(key); ok {
		return v
	}
	made := make()
	if v, ok := c.find(key); ok {
		return v
	}
	c.put(key, made, most)
	return made
}

func (c *cache[K, V]) find(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.fresh[key]; ok {
		return v, true
	}
	v, ok := c.old[key]
	if ok {
		c.fresh[key] = v
	}
	return v, ok
}

func (c *cache[K, V]) put(key K, v V, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh == nil || len(c.fresh) >= most {
		c.fresh, c.old = map[K]V{}, c.fresh
	}
	c.fresh[key] = v
}

// filterCache keeps compiled filters. Programs know nothing of schemas, so equal sources share one;
// whether a source is right depends on the schemas it is checked against.
type filterCache struct {
	programs cache[string, *compiledFilter]
	checks   cache[checkKey, models.Problems]
	envs     cache[[sha256.Size]byte, *checkEnv]
	paths    cache[string, *path]
}

func newFilterCache() *filterCache { return &filterCache{} }

type compiledFilter struct {
	filter   *Filter
	problems models.Problems
}

type checkKey struct {
	schemas [sha256.Size]byte
	source  string
}

// checkEnv is an environment that knows the fields of data.
type checkEnv struct {
	env  *cel.Env
	data *form
	err  error
}

// CompileFilter compiles a filter for a webhook with these event types. Where the schemas of all
// of them are known, and all are exact names, a field must be one that at least one of them has.
// The problems have positions.
func (c *Catalogue) CompileFilter(source string, patterns []string) (*Filter, models.Problems) {
	parse := parseOnce(source)
	if len(source) > maxFilter { // too long to be kept as a key
		_, problems := parse()
		return nil, problems
	}
	if problems := c.checkTyped(source, patterns); len(problems) > 0 {
		return nil, problems
	}
	return c.dynamicFilter(source, parse)
}

// parseOnce parses a filter when it is first asked to: parsing is most of the work, and what is
// cached needs none.
func parseOnce(source string) func() (*cel.Ast, models.Problems) {
	return sync.OnceValues(func() (*cel.Ast, models.Problems) { return parseFilter(source) })
}

// dynamicFilter compiles a filter without regard to schemas.
func (c *Catalogue) dynamicFilter(source string, parse func() (*cel.Ast, models.Problems)) (*Filter, models.Problems) {
	compiled := c.filters.programs.get(source, maxCached, func() *compiledFilter {
		parsed, problems := parse()
		if len(problems) > 0 {
			return &compiledFilter{nil, problems}
		}
		f, problems := c.filters.compileDynamic(parsed)
		return &compiledFilter{f, problems}
	})
	return compiled.filter, slices.Clone(compiled.problems)
}

// checkTyped checks a filter against the schemas of the event types, where all are known.
func (c *Catalogue) checkTyped(source string, patterns []string) models.Problems {
	entries := c.known(patterns)
	if entries == nil {
		return nil
	}
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%d:%s", len(e.schema.text), e.schema.text)
	}
	key := checkKey{schemas: [sha256.Size]byte(h.Sum(nil)), source: source}
	problems := c.filters.checks.get(key, maxCached, func() models.Problems {
		known := c.filters.envs.get(key.schemas, maxEnvs, func() *checkEnv { return newCheckEnv(entries) })
		if known.err != nil {
			return filterProblem("%s", known.err)
		}
		parsed, problems := parseFilter(source) // its own: it is rewritten
		if len(problems) == 0 {
			accessFields(parsed, known.data)
			_, problems = checkFilter(known.env, parsed, known.data)
		}
		return problems
	})
	return slices.Clone(problems)
}

// known gives the event types that the patterns name, by name; nil where the form of one is not
// known, or where types that come later may be among them.
func (c *Catalogue) known(patterns []string) []*entry {
	entries := make([]*entry, 0, len(patterns))
	for _, p := range patterns {
		e, ok := c.types[p]
		if !ok || e.form == nil || e.form.kind != kindObject {
			return nil
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(entries)
}

func newCheckEnv(entries []*entry) *checkEnv {
	forms := make([]*form, len(entries))
	for i, e := range entries {
		forms[i] = e.form
	}
	result := &checkEnv{data: unite(forms)}
	typ, provider, err := newFieldTypes(result.data)
	if err != nil {
		result.err = err
		return result
	}
	result.env, result.err = newEnv(typ, provider)
	return result
}

// compiledShape is a payload query, or why it is none.
type compiledShape struct {
	shape    *Shape
	problems models.Problems
}

// CompilePayloadQuery compiles a payload query for a webhook with these event types; those that
// are exact names must be selected. The problems have positions.
func (c *Catalogue) CompilePayloadQuery(document string, patterns []string) (*Shape, models.Problems) {
	if len(document) > maxQuery { // too long to be kept as a key
		return c.compileShape(document)
	}
	compiled := c.shapes.get(document, maxCached, func() *compiledShape {
		shape, problems := c.compileShape(document)
		return &compiledShape{shape, problems}
	})
	if len(compiled.problems) > 0 {
		return nil, slices.Clone(compiled.problems)
	}
	if problems := c.requireExact(compiled.shape, patterns); len(problems) > 0 {
		return nil, problems
	}
	return compiled.shape, nil
}

// compiledRule is a rule that can be decided.
type compiledRule struct {
	filter *Filter
	shape  *Shape
	broken string // why it cannot be, "" where it can
}

// compile compiles what a webhook stores. Its parts compiled when they were saved; a schema that
// was forced since can have broken them.
func (c *Catalogue) compile(r *rule) *compiledRule {
	result := &compiledRule{}
	var problems models.Problems
	if r.filter != nil {
		if result.filter, problems = c.CompileFilter(*r.filter, r.patterns); len(problems) > 0 {
			result.broken = shorten("The filter no longer compiles: " + problems[0].Message)
			return result
		}
	}
	if r.payloadQuery != nil {
		if result.shape, problems = c.CompilePayloadQuery(*r.payloadQuery, r.patterns); len(problems) > 0 {
			result.broken = shorten("The payload query no longer compiles: " + problems[0].Message)
		}
	}
	return result
}

// compilePast compiles what a webhook stored at an earlier time, as far as the catalogue of today
// allows: what it decided then did not depend on today's schemas.
func (c *Catalogue) compilePast(r *rule) *compiledRule {
	result := &compiledRule{}
	var problems models.Problems
	if r.filter != nil {
		if result.filter, problems = c.dynamicFilter(*r.filter, parseOnce(*r.filter)); len(problems) > 0 {
			result.broken = shorten("The filter does not compile: " + problems[0].Message)
		}
	}
	if r.payloadQuery != nil {
		// Where it no longer compiles there is no body to show; the verdict stays.
		result.shape, _ = c.CompilePayloadQuery(*r.payloadQuery, r.patterns)
	}
	return result
}
