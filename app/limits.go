package app

import "github.com/intervengine/webhooks/graph"

// literalTokens is how many tokens of literal data a mutation may have for each token of a document.
const literalTokens = 50

// queryLimits are the bounds of one GraphQL request.
func (c *Config) queryLimits() graph.Limits {
	body := int64(c.MaxBodyBytes)
	if body == 0 {
		// A full batch of the largest events, and what is around them (E3).
		body = int64(c.MaxBatch)*int64(c.MaxEventBytes) + 1<<20
	}
	return graph.Limits{
		BodyBytes: body, Nesting: c.MaxBodyDepth,
		Tokens: c.MaxQueryTokens, LiteralTokens: literalTokens * c.MaxQueryTokens,
		Operations: c.MaxQueryOperations, Fragments: c.MaxQueryFragments, Variables: c.MaxQueryVariables,
		SelectionsPerSet: c.MaxQueryFieldsPerSet, Selections: c.MaxQueryFields, RootFields: c.MaxQueryRootFields,
		Depth: c.MaxQueryDepth, Aliases: c.MaxQueryAliases, Directives: c.MaxQueryDirectives,
		Complexity: c.MaxQueryComplexity, ListInput: c.MaxListInput, CachedDocuments: c.QueryCache,
	}
}
