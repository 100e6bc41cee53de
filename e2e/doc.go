// Package e2e tests the product's promises from outside: the real binary as real processes, over
// HTTP, with real databases, receivers and signals. Tests are named after the promise.
package e2e
