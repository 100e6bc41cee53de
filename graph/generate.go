package graph

// gqlgen finds ../gqlgen.yml by itself and runs where that file is.
//
//go:generate go tool gqlgen generate
