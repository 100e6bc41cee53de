// Command bench measures the server from outside, over HTTP only, and prints each figure beside
// that of a baseline measured in the same call:
//
//	go run ./bench                          # every scenario
//	go run ./bench saturated latency        # some of them
//	go run ./bench -h                       # flags
//
// It builds the server, starts it as a process on the embedded default and on a Postgres and a
// Redis of its own, lets a receiver in a third process count what arrives, and drives it with
// callers in this one. The baseline is the naive form of the same product, in bench/baseline. All
// share the machine, so only ratios travel from one machine to another.
//
// Rounds of the systems that are compared take turns, and a figure is the median of its rounds:
// what else the machine does meanwhile hits all of them. Nothing is asserted. Progress goes to
// standard error, the tables to standard output.
package main
