# Everything a change has to pass runs from here; .ci/run runs the same targets.
# Tools are built from the versions that tools/*/go.mod pin. To use a binary that
# is already there: make lint GOLANGCI_LINT=/path/to/golangci-lint

GO            ?= go
BUF           ?= $(GO) tool -modfile=tools/buf/go.mod buf
GOLANGCI_LINT ?= $(GO) tool -modfile=tools/lint/go.mod golangci-lint
GOVULNCHECK   ?= $(GO) tool -modfile=tools/vuln/go.mod govulncheck

# Nothing but what went wrong. make test-connect KAFKA=3.9 tests that worker's version.
MVN ?= mvn --quiet --batch-mode --no-transfer-progress

# How much of each fuzz target runs: a number of inputs (50000x) rather than a time,
# at whose end Go before 1.27 may fail a target for nothing (go.dev/issue/75804).
FUZZTIME ?= 100000x

# How long things are broken under load.
RELIABILITY_TIME ?= 3m

# How long each attack of make abuse lasts, and what else the command is told, such
# as ABUSE_FLAGS="-case unfinished".
ABUSE_TIME  ?= 10s
ABUSE_FLAGS ?=

# How long make bench-churn takes for an hour of comings and goings.
CHURN_TIME ?= 5m

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

# The race detector needs cgo, which go turns off where there is no C compiler.
RACE := $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

.DEFAULT_GOAL := help
.PHONY: help abuse build test test-connect test-peers test-postgres scaling bench bench-matrix bench-matrix-quick bench-matrix-docs bench-compare bench-facts bench-growth bench-churn bench-peers bench-ghz pgo connect-jar cover overload fuzz lint fmt-check generate generate-check proto-lint proto-breaking reliability vuln ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/broker
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/broker ./cmd/broker

test: ## run all tests, with the race detector where there is a C compiler
	@$(if $(RACE),,echo "no C compiler: testing without the race detector")
	$(GO) test $(RACE) ./...

connect-jar: ## build the jar for Kafka Connect's plugin.path
	$(MVN) -f kafka-connect/pom.xml -pl provider package
	@ls kafka-connect/provider/target/secretbroker-kafka-connect-*.jar

test-connect: build ## test the config provider on a real Kafka Connect worker (Java 17, Maven, PostgreSQL)
	$(MVN) -f kafka-connect/pom.xml $(if $(KAFKA),-Pkafka-$(KAFKA)) verify
	@grep -h '^Tests run' kafka-connect/*/target/*-reports/*.txt

test-peers: ## test against stores that others wrote, which it installs (docs/testing.md)
	TEST_PEERS=1 $(GO) test $(RACE) -timeout 40m -count=1 -run 'Peer|Moto' ./internal/provider/...
	cd tools/peers/gcp && $(GO) test -mod=mod -count=1 ./...
	cd tools/peers/otlp && $(GO) test -mod=mod -count=1 ./...

test-postgres: ## run the tests of the registry, those on a real PostgreSQL server included
	SECRETBROKER_TEST_POSTGRES=required $(GO) test $(RACE) ./internal/registry/... ./internal/usage/...

scaling: ## measure replicas: reads of the store, and ten thousand connectors that start at once
	SECRETBROKER_TEST_POSTGRES=required SECRETBROKER_SCALING=1 $(GO) test ./cmd/broker -count=1 -v -run 'TestReadsAgainstReplicas|TestHerdOfConnectors'

cover: ## run all tests and show what they do not reach
	$(GO) test -coverpkg=./client/...,./cmd/...,./internal/... -coverprofile=coverage.out ./...
	$(GO) tool cover -func=coverage.out | tail -1
	@echo "line by line: $(GO) tool cover -html=coverage.out"

bench: ## measure a Resolve beside a server that does nothing (docs/performance.md)
	$(GO) run ./bench/perf run

bench-matrix: ## measure over CPUs, delays of fsync and loads, and compare with the targets (35 minutes on two CPUs, 50 on more)
	$(GO) run ./bench/perf matrix

bench-matrix-quick: ## the same in some 5 minutes, less exactly; bench/results/matrix-quick.json
	$(GO) run ./bench/perf matrix -rounds 2 -warm 300ms -duration 1s -delays 0,5ms -out bench/results/matrix-quick.json

bench-matrix-docs: ## write the saved matrix into docs/performance.md
	$(GO) run ./bench/perf matrix-docs

bench-compare: ## compare two saved runs: make bench-compare OLD=old.json NEW=new.json
	$(GO) run ./bench/perf compare $(or $(OLD),bench/results/baseline.json) $(or $(NEW),bench/results/latest.json)

bench-facts: ## measure cold calls, ten thousand connectors at once, connections, a start
	$(GO) run ./bench/perf facts

bench-growth: ## measure how the cost of a call grows: configs, sizes, grants, connections, secrets
	$(GO) run ./bench/perf growth

bench-churn: ## let an hour's comings and goings happen in CHURN_TIME (5m), and see if memory grows
	$(GO) run ./bench/perf churn -duration $(CHURN_TIME)

bench-peers: ## measure Vault and Dapr beside the broker, which it builds (docs/comparison.md)
	$(GO) run ./bench/perf peers

bench-ghz: ## measure with ghz what its users see, latency above all
	bench/ghz.sh

pgo: ## write default.pgo anew from a profile under load (docs/performance.md says why none is committed)
	$(GO) run ./bench/perf run -profile cmd/broker/default.pgo -rounds 1 -rates "" -shapes 4x64 -duration 20s -out ""

overload: ## measure a broker with up to ten times the calls that it can answer
	$(GO) run ./bench/overload

fuzz: ## run every fuzz target for FUZZTIME (100000x)
	@set -e; grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' client cmd internal | sort | \
	while IFS=: read -r file func; do \
		echo "$${func#func } in $$(dirname $$file)"; \
		$(GO) test -run='^$$' -fuzz="^$${func#func }\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s ./$$(dirname $$file) </dev/null; \
	done

lint: ## run the linters of .golangci.yml
	$(GOLANGCI_LINT) run ./...

fmt-check: ## fail if a file is not as gofmt writes it
	@files=$$(gofmt -l .) && \
	if [ -n "$$files" ]; then echo "run gofmt -w on:"; echo "$$files"; exit 1; fi

generate: ## generate gen/ from proto/
	$(BUF) generate

generate-check: ## fail if gen/ is not what proto/ generates
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	$(BUF) generate -o "$$tmp" && \
	if ! diff -ru gen "$$tmp/gen"; then echo "gen/ differs from proto/: run make generate"; exit 1; fi

proto-lint: ## lint proto/ and check its layout
	$(BUF) lint
	$(BUF) format --diff --exit-code

proto-breaking: ## fail if proto/ breaks clients of the newest release
	@tag=$$(git tag --list 'v*' --sort=-v:refname | grep -E '^v[0-9]+\.[0-9]+\.[0-9]+$$' | head -n 1); \
	if [ -z "$$tag" ]; then echo "proto-breaking: skipped, there is no release tag (vX.Y.Z) to compare with"; exit 0; fi; \
	tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	echo "comparing with $$tag" && \
	git archive "$$tag" proto buf.yaml | tar -x -C "$$tmp" && \
	$(BUF) breaking --against "$$tmp"

reliability: ## break things under load for RELIABILITY_TIME (3m) and count what came of it
	cd reliability && $(GO) vet . && $(GO) run . -for $(RELIABILITY_TIME)

abuse: ## attack a broker in many ways for ABUSE_TIME (10s) each, and see how a granted worker fares
	cd reliability && $(GO) vet ./... && $(GO) test ./... && $(GO) run ./abuse -time $(ABUSE_TIME) $(ABUSE_FLAGS)

vuln: ## look up known vulnerabilities in what the broker uses
	@scripts/vuln.sh $(GOVULNCHECK)

ci: ## run what CI runs
	.ci/run
