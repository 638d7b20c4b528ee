# make            builds bin/regfs, a static binary
# make demo       shows what it does, on an embedded registry; KEEP=1 stays mounted until Ctrl-C
# make install    installs it under PREFIX (/usr/local), below DESTDIR
# make test       runs every test; those that need a program or /dev/fuse skip without it, but fail when CI is set
# make test-deps  installs what tests and benchmarks need, on Debian and its relatives
# make check      formatting, vet, staticcheck, go.mod, and that everything compiles for the other platforms
# make fuzz       runs each fuzz target for FUZZTIME (60s)
# make bench      measures, and prints a table; takes some twenty minutes and 8 GB of disk in bench/data; with BENCH="-only inside"
#                 it measures only what has a name that matches
# make clean      removes what was built, and the benchmarks' image

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO       ?= go
PREFIX   ?= /usr/local
FUZZTIME ?= 60s

# The go command stamps the commit into the binary wherever git can tell it.
VCS   := $(if $(shell git rev-parse HEAD 2>/dev/null),auto,false)
# The race detector needs a C compiler.
CC    := $(shell $(GO) env CC)
RACE  := $(if $(shell command -v $(CC) 2>/dev/null),-race)
# With a C compiler, containers-storage would want the headers of btrfs.
TAGS  := -tags exclude_graphdriver_btrfs
TOOLS := $(CURDIR)/bin/tools
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo)

CRANE  := github.com/google/go-containerregistry/cmd/crane@v0.22.1
REGCTL := github.com/regclient/regclient/cmd/regctl@v0.11.7
DEBS   := apache2-utils attr buildah busybox-static debian-archive-keyring debootstrap docker-registry docker.io fakeroot fuse3 gcc git gnupg jq libc6-dev libcap2-bin openssl \
          ostree pigz podman rsync skopeo squashfs-tools squashfs-tools-ng tar umoci zstd
CROSS  := linux/arm64 darwin/arm64 freebsd/amd64
# Only tests use it, and it takes longer to compile than all else together.
BIG    := tests/registries/distribution

# Tests find crane and regctl here.
export PATH := $(TOOLS):$(PATH)

.PHONY: build demo install test test-deps tools check fuzz bench clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(VCS) -ldflags "-s -w" -o bin/regfs ./cmd/regfs

demo: build
	@CGO_ENABLED=0 $(GO) build -o bin/demo ./tests/demo
	@KEEP=$(KEEP) bin/demo bin/regfs

install: build
	install -D -m 755 bin/regfs $(DESTDIR)$(PREFIX)/bin/regfs

test:
	@$(if $(RACE),,echo "no C compiler ($(CC)): testing without the race detector")
	$(GO) test $(RACE) $(TAGS) -timeout 20m ./...

test-deps: tools
	@dpkg -s $(DEBS) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(DEBS); }

tools: $(TOOLS)/crane $(TOOLS)/regctl

$(TOOLS)/crane: Makefile
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install $(CRANE)
	@touch $@

$(TOOLS)/regctl: Makefile
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install $(REGCTL)
	@touch $@

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; }
	$(GO) vet $(TAGS) ./...
	$(GO) tool -modfile=tools.mod staticcheck $(TAGS) ./...
	$(GO) mod tidy -diff
	@for p in $(CROSS); do echo "cross-compiling for $$p"; \
	  export CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/}; \
	  $(GO) list -f '{{if .GoFiles}}{{.ImportPath}}{{end}}' ./... | grep -v $(BIG) | xargs $(GO) build; done

# The go command fuzzes one target at a time.
fuzz:
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do \
	  echo "$${file%/*}: $${func#func }"; \
	  $(GO) test $(TAGS) -run='^$$' -fuzz="^$${func#func }$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=10x "$${file%/*}"; done

bench: build test-deps
	CGO_ENABLED=0 $(GO) build -o bin/bench ./tests/bench
	bin/bench $(BENCH) bin/regfs

clean:
	rm -rf bin bench/data
