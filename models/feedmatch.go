package models

import "slices"

// Matches reports whether d is one that f leaves in a list, as d stands in memory.
func (f *DeliveryFilter) Matches(d *Delivery) bool {
	switch {
	case f.WebhookID != nil && *f.WebhookID != d.WebhookID,
		f.EventID != nil && *f.EventID != d.EventID,
		f.Tenant != nil && *f.Tenant != d.Tenant,
		len(f.EventTypes) > 0 && !slices.Contains(f.EventTypes, d.EventType),
		len(f.Statuses) > 0 && !slices.Contains(f.Statuses, d.Status),
		len(f.Triggers) > 0 && !slices.Contains(f.Triggers, d.Trigger),
		len(f.Outcomes) > 0 && (d.LastOutcome == nil || !slices.Contains(f.Outcomes, *d.LastOutcome)),
		f.ResponseMin != nil && (d.LastStatus == nil || *d.LastStatus < *f.ResponseMin),
		f.ResponseMax != nil && (d.LastStatus == nil || *d.LastStatus > *f.ResponseMax),
		f.Since != nil && d.CreatedAt.Before(*f.Since),
		f.Until != nil && !d.CreatedAt.Before(*f.Until):
		return false
	}
	return true
}
