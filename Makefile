# Every target is a verb; `make help` lists them.
DESCRIBED := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS   := -X lockstep/appliance/control.described=$(DESCRIBED)
SEEDS   ?= 1000
CONNS   ?= 1000000
STORM   ?= --duration 1h
# Of one package's tests. What waits in a test has a limit of its own; beside other work all of them together take several times as long.
TIMEOUT ?= 3h

.PHONY: help build test test-quick test-race sim churn fuzz bench eval storm suites services demo image image-lock packages vm-demo check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/lockstep
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/lockstep ./cmd/lockstep

# A simulated world has one goroutine: the race detector finds nothing in it, and makes it seven times slower.
test: check ## all tests, race detector on (root: the end-to-end ones need network namespaces)
	go test -race -count=1 -p 1 -timeout $(TIMEOUT) $$(go list ./... | grep -v '/replication/sim$$')
	SIM_SEEDS=50 go test -race -count=1 -timeout $(TIMEOUT) -run Seeds ./replication/sim
	go test -count=1 -run DoNotAllocate ./tun
	$(MAKE) sim SEEDS=1000
	$(MAKE) churn CONNS=100000

test-quick: ## all tests without the race detector
	go test -p 1 -timeout $(TIMEOUT) ./...

test-race: test ## the same as test

sim: ## simulate the replication core and the arbiter: make sim SEEDS=100000
	SIM_SEEDS=$(SEEDS) go test -count=1 -timeout $(TIMEOUT) ./replication/sim
	SIM_SEEDS=$(SEEDS) go test -count=1 -timeout $(TIMEOUT) -run Seeds ./replication/arbiter

churn: ## connections come and go, nothing may be left: make churn CONNS=1000000
	LOCKSTEP_LEAK_CONNS=$(CONNS) go test -count=1 -timeout $(TIMEOUT) -v -run '^TestNothingLeaks$$' ./stack

fuzz: ## every fuzz target for half a minute
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime 30s $$p || exit 1; \
	  done; \
	done

bench: build ## measure Lockstep against forwarding, HAProxy and a plain proxy (root)
	bin/lockstep bench

eval: build ## answer FT-TCP's questions on this machine, with pictures: lockstep-eval/report.html (root)
	bin/lockstep eval

storm: build ## faults at random for an hour, on a pair under load (root): make storm STORM="--duration 5m --seed 7"
	bin/lockstep storm $(STORM)

suites: build ## test suites of PostgreSQL, Redis, HTTP/2 and rsync, directly and through continuous failovers (root)
	go run ./internal/suites $(SUITES)

services: build ## real servers with their real clients through faults, one by one: docs/services.md (root, Debian's packages)
	go run ./internal/peers $(SERVICES)

demo: build ## watch a connection outlive its appliance
	bin/lockstep demo

image: ## build the bootable appliance: bin/image/lockstep.qcow2, .raw, .efi, vmlinuz and initrd.img
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS)" -o bin/image/lockstep ./cmd/lockstep
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} go run ./images/mkimage -version "$$(bin/image/lockstep --version | cut -d " " -f 2)"

image-lock: ## pin the Debian packages of the image to what Debian has now
	go run ./images/mkimage -relock

packages: ## build packages (Debian, RPM) and container images: bin/packages
	rm -rf bin/packages
	CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS)" -o bin/packages/lockstep ./cmd/lockstep
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} go run ./images/packages -version "$$(bin/packages/lockstep --version | cut -d " " -f 2)" -maintainer "$$(git log -1 --format='%an <%ae>')"

vm-demo: build image ## watch a connection outlive a virtual machine (root, QEMU)
	bin/lockstep demo --vm bin/image

check: ## gofmt, vet, staticcheck, no function that nobody calls, no exported name that nobody outside uses
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...
	@dead=$$(go tool -modfile=tools/go.mod deadcode -test ./...) && test -z "$$dead" || { echo "nobody calls:"; echo "$$dead"; exit 1; }
	go test -count=1 -run TestExportedNamesAreUsed .

clean: ## remove what was built
	rm -rf bin
