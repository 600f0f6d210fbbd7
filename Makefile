# make alone lists the targets. TESTFLAGS goes to every go test, FUZZTIME to
# every fuzz target: make race TESTFLAGS=-v, make fuzz FUZZTIME=1m. BENCHFLAGS
# goes to make compare: BENCHFLAGS='-run churn', or BENCHFLAGS=-quick for a look;
# DEMOFLAGS to the demo: DEMOFLAGS='-listen 127.0.0.1:5292'.

SHELL       := /bin/bash -o pipefail
TESTFLAGS   ?=
BENCHFLAGS  ?=
DEMOFLAGS   ?=
FUZZTIME    ?= 10s
MANUAL      ?= build/manual
SOAK        ?= 10m
SEED        ?= 0
SEEDS       ?= 10000
NAMES       ?= 200
DAYS        ?= 365
MODULES     := . $(patsubst %/go.mod,%,$(wildcard tests/go.mod bench/go.mod))
PLATFORMS   ?= linux/amd64 linux/arm64 freebsd/amd64 darwin/arm64 windows/amd64
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
BIN         := $(CURDIR)/build/bin

# IMAGE names the image, ENGINE the program that builds it.
.PHONY: help build demo manual dist image test race fuzz simulate year e2e soak bench compare notices lint tools needs clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## the binary, ./wssgate
	CGO_ENABLED=0 go build -trimpath -o wssgate .

demo: build ## run it: an XMPP server, certificates and the gate, on loopback
	./wssgate demo $(DEMOFLAGS)

manual: build ## manual pages and the completion of shells, in build/manual
	go run ./manual -o $(MANUAL) -date "$$(date -u -d @$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} +%F)"

dist: $(BIN)/nfpm ## binaries, packages, SBOMs and checksums to release, in build/dist
	@NFPM=$(BIN)/nfpm PLATFORMS="$(PLATFORMS)" deploy/dist.sh

image: ## a container image, with podman, buildah or docker
	@deploy/image.sh

test: needs ## all tests: units, the built binary from outside, real servers, a browser, the rigs
	go test -timeout 2h $(TESTFLAGS) ./...
	cd tests && go test -timeout 2h $(TESTFLAGS) ./...
	cd bench && go test -timeout 2h $(TESTFLAGS) ./...

race: ## unit tests with the race detector; make test runs the binary with it anyway
	go test -race -timeout 2h $(TESTFLAGS) ./...

fuzz: ## every fuzz target for FUZZTIME
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

simulate: ## SEEDS worlds of bad luck around the event loop; with SEED one of them, and its trace
	go test -count=1 -timeout 2h -v ./proxy -run '^TestSimulation$$' -args -seeds $(SEEDS) -seed $(SEED)

year: ## DAYS of ACME for NAMES on a fake clock; a year of 200 takes an hour of CPU
	go test -count=1 -timeout 2h -v ./certstore -run '^TestACMEYear$$' -args -year-names $(NAMES) -year-days $(DAYS)

e2e: needs ## only the tests that run the built binary
	cd tests && go test -count=1 -timeout 2h $(TESTFLAGS) ./...

soak: ## the built binary in a hostile world for SOAK; every message is followed
	cd tests && go test -count=1 -v -timeout 0 ./soak -args -for $(SOAK) -seed $(SEED)

bench: ## benchmarks of the packages
	go test -run '^$$' -bench . -benchmem $(TESTFLAGS) ./...

compare: ## whole gates side by side: this one, nginx, HAProxy; see bench/README.md
	cd bench && go run . $(BENCHFLAGS)

notices: ## THIRD-PARTY-NOTICES, after a change of go.mod
	deploy/notices.sh > THIRD-PARTY-NOTICES

lint: tools build/bin/vet ## gofmt, go vet for every platform, staticcheck, govulncheck
	@files=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$files" || { echo "not gofmt'ed: $$files"; exit 1; }
	@set -e; for dir in $(MODULES); do echo "$$dir: go vet, staticcheck"; \
	  (cd $$dir && go vet ./... && $(BIN)/staticcheck ./...); done
	@$(BIN)/vet $(PLATFORMS)
	@tests/vulncheck.sh $(BIN)/govulncheck

tools: $(BIN)/staticcheck $(BIN)/govulncheck

# Reads go test -json for .ci/run.
build/bin/report: $(wildcard tests/internal/report/*.go)
	cd tests && go build -o $(BIN)/report ./internal/report

build/bin/vet: $(wildcard tests/internal/vet/*.go) tests/go.mod
	cd tests && go build -o $(BIN)/vet ./internal/vet

$(BIN)/staticcheck $(BIN)/govulncheck: Makefile
	GOBIN=$(BIN) go install $(if $(findstring static,$@),$(STATICCHECK),$(GOVULNCHECK))
	@touch $@

$(BIN)/nfpm: Makefile
	GOBIN=$(BIN) go install $(NFPM)
	@touch $@

needs:
	@tests/needs.sh

clean: ## remove what the other targets made
	rm -rf wssgate build tests/node_modules
