# All checks that a change has to pass; .ci/run uses the same targets.
# Tools are built in the versions that tools/*/go.mod pin. To use an installed binary:
# make lint GOLANGCI_LINT=/path/to/golangci-lint

GO            ?= go
BUF           ?= $(GO) tool -modfile=tools/buf/go.mod buf
GOLANGCI_LINT ?= $(GO) tool -modfile=tools/lint/go.mod golangci-lint
GOVULNCHECK   ?= $(GO) tool -modfile=tools/vuln/go.mod govulncheck

# Prints only errors. make test-connect KAFKA=3.9 tests with that version of the worker.
MVN ?= mvn --quiet --batch-mode --no-transfer-progress

# The number of inputs of each fuzz target (50000x). It is not a duration, because Go
# before 1.27 may report a false failure when the time is up (go.dev/issue/75804).
FUZZTIME ?= 100000x

# The duration of make reliability and make reliability-watch, and additional flags of the
# latter.
RELIABILITY_TIME  ?= 3m
RELIABILITY_FLAGS ?=

# The duration of each attack of make abuse, and additional flags, such as
# ABUSE_FLAGS="-case unfinished".
ABUSE_TIME  ?= 10s
ABUSE_FLAGS ?=

# The duration in which make bench-churn simulates an hour of changing connections.
CHURN_TIME ?= 5m

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

# The race detector needs cgo, which go disables if there is no C compiler.
RACE := $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

.DEFAULT_GOAL := help
.PHONY: help abuse build test test-connect test-connect-outage test-connect-versions test-peers test-postgres scaling bench bench-matrix bench-matrix-quick bench-matrix-docs bench-compare bench-facts bench-growth bench-churn bench-watch bench-peers bench-ghz pgo connect-jar cover docs overload fuzz lint fmt-check generate generate-check proto-lint proto-breaking proto-snapshot reliability reliability-watch vuln ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/secretbroker
	$(GO) build -trimpath -ldflags '-X github.com/secretbroker/secretbroker/internal/app.version=$(VERSION)' -o bin/secretbroker ./cmd/secretbroker

test: ## run all tests, with the race detector if a C compiler is installed
	@$(if $(RACE),,echo "no C compiler: testing without the race detector")
	$(GO) test $(RACE) -timeout 30m ./...

connect-jar: ## build the jar for Kafka Connect's plugin.path
	$(MVN) -f kafka-connect/pom.xml -pl provider package
	@ls kafka-connect/provider/target/plugin/*.jar

test-connect: build ## test the config provider on a real Kafka Connect worker (Java 17, Maven, PostgreSQL)
	$(MVN) -f kafka-connect/pom.xml $(if $(KAFKA),-Pkafka-$(KAFKA)) verify
	@grep -h '^Tests run' kafka-connect/*/target/*-reports/*.txt

test-connect-outage: build ## test a worker whose 30 connectors with 10 tasks each start while its broker is down
	$(MVN) -f kafka-connect/pom.xml $(if $(KAFKA),-Pkafka-$(KAFKA)) verify -Dtest=none -Dsurefire.failIfNoSpecifiedTests=false \
		-Dit.test=OutageIT -Dfailsafe.failIfNoSpecifiedTests=false -Doutage.connectors=30 -Doutage.tasks=10
	@grep -h '^Tests run' kafka-connect/worker-tests/target/*-reports/*.txt

# Older versions of the worker, each with a profile in kafka-connect/worker-tests/pom.xml.
OLDER_KAFKA := 4.3 4.0 3.9 3.7

test-connect-versions: ## run test-connect with all older versions of Kafka (half an hour)
	$(foreach v,$(OLDER_KAFKA),$(MAKE) test-connect KAFKA=$(v) &&) true

test-peers: ## test against third-party stores, which it installs (docs/testing.md)
	TEST_PEERS=1 $(GO) test $(RACE) -timeout 40m -count=1 -run 'Peer|Moto' ./internal/provider/... ./client/clienttest ./internal/app
	cd tools/peers/gcp && $(GO) test -mod=mod -count=1 ./...
	cd tools/peers/otlp && $(GO) test -mod=mod -count=1 ./...

test-postgres: ## run the tests of the registry, including those with a real PostgreSQL server
	SECRETBROKER_TEST_POSTGRES=required $(GO) test $(RACE) -timeout 30m ./internal/registry/... ./internal/usage/...

scaling: ## measure replicas: reads of the store, and the simultaneous start of ten thousand connectors
	SECRETBROKER_TEST_POSTGRES=required SECRETBROKER_SCALING=1 $(GO) test ./internal/app -count=1 -v -run 'TestReadsAgainstReplicas|TestHerdOfConnectors'

cover: ## run all tests and show their coverage
	$(GO) test -coverpkg=./client/...,./cmd/...,./internal/... -coverprofile=coverage.out ./...
	$(GO) tool cover -func=coverage.out | tail -1
	@echo "line by line: $(GO) tool cover -html=coverage.out"

bench: ## compare Resolve with a server that does nothing (docs/performance.md)
	$(GO) run ./bench/perf run

bench-matrix: ## measure with several numbers of CPUs, fsync delays and loads, and compare with the targets (35 minutes on two CPUs, 50 on more)
	$(GO) run ./bench/perf matrix

bench-matrix-quick: ## the same in about 5 minutes, less precisely; bench/results/matrix-quick.json
	$(GO) run ./bench/perf matrix -rounds 2 -warm 300ms -duration 1s -delays 0,5ms -out bench/results/matrix-quick.json

bench-matrix-docs: ## write the saved matrix into docs/performance.md
	$(GO) run ./bench/perf matrix-docs

bench-compare: ## compare two saved runs: make bench-compare OLD=old.json NEW=new.json
	$(GO) run ./bench/perf compare $(or $(OLD),bench/results/baseline.json) $(or $(NEW),bench/results/latest.json)

bench-facts: ## measure cold calls, ten thousand connectors at once, connections and startup
	$(GO) run ./bench/perf facts

bench-growth: ## measure how the cost of a call grows with configs, sizes, grants, connections and secrets
	$(GO) run ./bench/perf growth

bench-churn: ## simulate an hour of changing connections in CHURN_TIME (5m), and check for memory growth
	$(GO) run ./bench/perf churn -duration $(CHURN_TIME)

bench-watch: ## measure streams of Watch: memory, CPU, the time of a notice, the effect on Resolve
	$(GO) run ./bench/perf watch

bench-peers: ## build Vault and Dapr, and compare them with the broker (docs/comparison.md)
	$(GO) run ./bench/perf peers

bench-ghz: ## measure with ghz, mainly latency
	bench/ghz.sh

pgo: ## write default.pgo from a profile under load (docs/performance.md explains why none is committed)
	$(GO) run ./bench/perf run -profile cmd/secretbroker/default.pgo -rounds 1 -rates "" -shapes 4x64 -duration 20s -out ""

overload: ## measure a broker with up to ten times the calls that the floor server answers
	$(GO) run ./bench/perf run -servers floor,broker -shapes 64x4 -rates 1,2,5,10 -out ""

fuzz: ## run every fuzz target for FUZZTIME (100000x)
	@set -e; grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' client cmd internal | sort | \
	while IFS=: read -r file func; do \
		echo "$${func#func } in $$(dirname $$file)"; \
		$(GO) test -run='^$$' -fuzz="^$${func#func }\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s ./$$(dirname $$file) </dev/null; \
	done

lint: ## run the linters of .golangci.yml
	$(GOLANGCI_LINT) run ./...

docs: ## generate docs/schema and the tables of docs/metrics.md
	$(GO) test ./internal/app -count=1 -run 'TestMetricsAreDocumented|TestSchemas' -update

fmt-check: ## fail if a file is not formatted with gofmt
	@files=$$(gofmt -l .) && \
	if [ -n "$$files" ]; then echo "run gofmt -w on:"; echo "$$files"; exit 1; fi

generate: ## generate gen/ from proto/
	$(BUF) generate

generate-check: ## fail if gen/ differs from the code that proto/ generates
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	$(BUF) generate -o "$$tmp" && \
	if ! diff -ru gen "$$tmp/gen"; then echo "gen/ differs from proto/: run make generate"; exit 1; fi

proto-lint: ## lint proto/ and check its layout
	$(BUF) lint
	$(BUF) format --diff --exit-code

# Before the first release there is no tag. The promise is then the snapshot.
PROTO_SNAPSHOT := tools/buf/snapshot

proto-breaking: ## fail if proto/ breaks clients of the newest release, or of the snapshot if there is no release
	@tag=$$(git tag --list 'v*' --sort=-v:refname | grep -E '^v[0-9]+\.[0-9]+\.[0-9]+$$' | head -n 1); \
	if [ -z "$$tag" ]; then echo "comparing with $(PROTO_SNAPSHOT)"; $(BUF) breaking --against $(PROTO_SNAPSHOT); exit; fi; \
	tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	echo "comparing with $$tag" && \
	git archive "$$tag" proto buf.yaml | tar -x -C "$$tmp" && \
	$(BUF) breaking --against "$$tmp"

proto-snapshot: ## accept proto/ as what proto-breaking compares with; deliberately, and only before the first release
	@if [ -n "$$(git tag --list 'v[0-9]*')" ]; then echo "there is a release, with which proto-breaking compares"; exit 1; fi
	rm -rf $(PROTO_SNAPSHOT)/proto && mkdir -p $(PROTO_SNAPSHOT) && cp buf.yaml $(PROTO_SNAPSHOT)/ && cp -R proto $(PROTO_SNAPSHOT)/proto

reliability: ## inject faults under load for RELIABILITY_TIME (3m) and check every answer
	cd reliability && $(GO) vet . && $(GO) run . -for $(RELIABILITY_TIME)

reliability-watch: ## inject faults for RELIABILITY_TIME (3m) while clients watch secrets, and check every notice
	cd reliability && $(GO) vet ./watch && $(GO) run ./watch -race=$(if $(RACE),true,false) -for $(RELIABILITY_TIME) $(RELIABILITY_FLAGS)

abuse: ## attack a broker in many ways for ABUSE_TIME (10s) each, and measure the effect on a granted worker
	cd reliability && $(GO) vet ./... && $(GO) test ./... && $(GO) run ./abuse -time $(ABUSE_TIME) $(ABUSE_FLAGS)

vuln: ## check the broker and its dependencies for known vulnerabilities
	@scripts/vuln.sh $(GOVULNCHECK)

ci: ## run all checks of CI
	.ci/run
