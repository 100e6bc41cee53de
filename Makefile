# `make` lists the targets. Tools are pinned here, built once into .bin, and built again when a
# version changes, since its name carries the version.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := $(CURDIR)/.bin
GOLANGCI_LINT := $(BIN)/golangci-lint-v2.15.0
GOTESTSUM := $(BIN)/gotestsum-v1.13.0
GOVULNCHECK := $(BIN)/govulncheck-v1.9.0
TESTENV := $(BIN)/testenv

# Static, and the same bytes on every machine.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w'

# What to test, and how long: `make test PKG=./models/... RUN=TestPage`. Two packages are tested at a time;
# those that take longest come first, so that no core waits for them at the end.
PKG ?= ./e2e/... ./models/... ./worker/... ./...
RUN ?=
FLAGS ?=
MODE :=
FUZZTIME ?= 1m
GUIDANCE ?= guided
SOAK ?= 5m
TIMEOUT ?= 20m
# What is transpiled from C has no races that the detector could see, and takes four times as long with it.
RACE := -race -gcflags=modernc.org/sqlite/lib=-race=false
SELECT = $(MODE) $(if $(RUN),-run '$(RUN)') $(FLAGS)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## compile everything, and the server into ./webhooks
	go build ./...
	$(BUILD) -o webhooks .

.PHONY: run
run: ## serve on the embedded defaults, no setup
	go run .

.PHONY: dev
dev: ## serve with an inbox and a sample webhook, and show a first verified delivery
	go run . dev

.PHONY: generate
generate: ## write the generated code and the console's bundle anew
	go generate ./...

.PHONY: verify
verify: ## fail when generated code, the console's bundle or go.mod is not up to date
	.ci/verify

.PHONY: lint
lint: $(GOLANGCI_LINT) ## all linters, formatting included; no finding is allowed
	$(GOLANGCI_LINT) run ./...

.PHONY: linters
linters: $(GOLANGCI_LINT) ## build what lint runs

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## format every Go file
	$(GOLANGCI_LINT) fmt ./...

.PHONY: test
test: $(TESTENV) $(GOTESTSUM) ## every test, on both stacks, with a Postgres and a Redis of its own
	GOTESTSUM=$(GOTESTSUM) .ci/test $(PKG) -timeout $(TIMEOUT) $(SELECT)

.PHONY: race
race: MODE := $(RACE)
race: test ## the same with the race detector (needs a C compiler)

.PHONY: e2e
e2e: PKG = ./e2e/...
e2e: MODE := -count=1
e2e: test ## the promises, tested from outside on killed processes

.PHONY: fuzz
fuzz: $(TESTENV) ## each fuzz target for FUZZTIME (1m); GUIDANCE=blind saves building everything anew
	$(TESTENV) -- .ci/fuzz $(FUZZTIME) $(GUIDANCE)

.PHONY: bench
bench: $(TESTENV) ## load scenarios and their ratios to the naive baseline; FLAGS are the generator's
	$(TESTENV) -- go run ./bench $(FLAGS)

.PHONY: faults
faults: TIMEOUT = 4h
faults: PKG = ./e2e/... ./models/...
faults: RUN = Fault|NothingAcceptedIsLost
faults: MODE := -count=1
faults: export FAULTS = full
faults: test ## every fault in its full length, not in the short form of `make test`

.PHONY: soak
soak: TIMEOUT = 24h
soak: PKG = ./e2e/...
soak: RUN = Soak
soak: MODE := -count=1 -v
soak: export SOAK_DURATION = $(SOAK)
soak: test ## random faults at a seed that it prints, for SOAK (5m)

.PHONY: services
services: $(TESTENV) ## a private Postgres and Redis for tests run by hand, until Ctrl-C
	$(TESTENV)

.PHONY: vuln
vuln: $(GOVULNCHECK) ## known vulnerabilities in what is called; asks vuln.go.dev
	.ci/vuln $(GOVULNCHECK)

.PHONY: image
image: ## the container image webhooks:VERSION
	docker build --build-arg VERSION=$(VERSION) --tag webhooks:$(VERSION) .

.PHONY: clean
clean: ## delete the tools and what was built; never ./data
	rm -rf $(BIN) webhooks

# The harness is ours and changes with the tree; go's own cache makes this quick.
.PHONY: $(TESTENV)
$(TESTENV):
	@go build -buildvcs=false -o $@ ./internal/testenv/cmd/testenv

$(GOLANGCI_LINT): TOOL = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(GOTESTSUM): TOOL = gotest.tools/gotestsum
$(GOVULNCHECK): TOOL = golang.org/x/vuln/cmd/govulncheck
$(GOLANGCI_LINT) $(GOTESTSUM) $(GOVULNCHECK):
	@echo "building $(@F)"
	@mkdir -p $(BIN) && scratch=$$(mktemp -d $(BIN)/build.XXXXXX) && \
	GOBIN=$$scratch GOFLAGS="$$GOFLAGS -buildvcs=false" go install $(TOOL)@$(lastword $(subst -v, v,$(@F))) && \
	mv $$scratch/* $@ && rmdir $$scratch
