package models

import "time"

// CircuitState is whether a webhook's circuit breaker lets attempts through.
type CircuitState string

// The states of a circuit. CLOSED lets everything through, OPEN nothing, HALF_OPEN one probe.
const (
	CircuitClosed   CircuitState = "CLOSED"
	CircuitOpen     CircuitState = "OPEN"
	CircuitHalfOpen CircuitState = "HALF_OPEN"
)

// Circuit is a webhook's circuit breaker as it stands for all workers together.
type Circuit struct {
	State CircuitState
	// OpenUntil is when an open circuit takes its probe; nil unless the state is OPEN.
	OpenUntil *time.Time
}
