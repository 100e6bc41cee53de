package catalogue

import "github.com/intervengine/webhooks/models"

// Broken is a webhook that a changed catalogue would break.
type Broken struct {
	Webhook  *models.Webhook // an element of the list that was asked about
	Problems models.Problems // of its filter and its payload query, told apart by their codes
}

// Broken gives the webhooks whose filter or payload query compiles against c and would not
// compile against next: their events would be FilterError from then on. Deleted ones are left out.
func (c *Catalogue) Broken(next *Catalogue, webhooks []models.Webhook) []Broken {
	var broken []Broken
	for i := range webhooks {
		w := &webhooks[i]
		if w.DeletedAt != nil || w.Filter == nil && w.PayloadQuery == nil {
			continue
		}
		var problems models.Problems
		if w.Filter != nil {
			if _, bad := next.CompileFilter(*w.Filter, w.EventTypes); len(bad) > 0 {
				if _, before := c.CompileFilter(*w.Filter, w.EventTypes); len(before) == 0 {
					problems = append(problems, bad...)
				}
			}
		}
		if w.PayloadQuery != nil {
			if _, bad := next.CompilePayloadQuery(*w.PayloadQuery, w.EventTypes); len(bad) > 0 {
				if _, before := c.CompilePayloadQuery(*w.PayloadQuery, w.EventTypes); len(before) == 0 {
					problems = append(problems, bad...)
				}
			}
		}
		if len(problems) > 0 {
			broken = append(broken, Broken{Webhook: w, Problems: problems})
		}
	}
	return broken
}
