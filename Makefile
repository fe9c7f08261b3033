# mobyfs: build, check, test, demo. CI runs `make check test`; see README.md.
SHELL   := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOFLAGS_BUILD := -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
# All that is compiled is compiled in one way, so that programs, tests and linters share it; the race detector alone needs C. What
# it tests has been vetted by check.
export CGO_ENABLED := 0
export GOFLAGS := $(sort $(GOFLAGS) -trimpath)
RACE := CGO_ENABLED=1 go test -race -vet=off
PROGRAMS := mobyctl mobyfs mobyfs-control
PLUGIN := bin/plugin
LINT := bin/lint

.PHONY: build
build: $(addprefix bin/,$(PROGRAMS)) ## the three programs, into bin/

.PHONY: FORCE
bin/%: FORCE
	go build $(GOFLAGS_BUILD) -o $@ ./cmd/$*

.PHONY: plugin
plugin: ## the managed plugin, into bin/plugin/: docker plugin create mobyfs-managed bin/plugin
	rm -rf $(PLUGIN)
	go build $(GOFLAGS_BUILD) -o $(PLUGIN)/rootfs/mobyfs-plugin ./cmd/mobyfs-plugin
	cp cmd/mobyfs-plugin/config.json $(PLUGIN)/

.PHONY: prepare
prepare: ## installs what demo and test need, saying so first; starts dockerd where none runs
	tools/prepare.sh

.PHONY: demo
demo: prepare build ## three hosts on this machine, a cluster on them, and a volume that follows its container
	tools/demo.sh

.PHONY: demo-down
demo-down: build ## takes the demo off again
	tools/demo.sh down

.PHONY: test
test: prepare build ## all tests, those on sandbox hosts included
	$(MAKE) --jobs=3 --output-sync=target units peer images
	$(MAKE) --jobs=2 --output-sync=target hosts promises
	$(MAKE) simulation
	go test -count=1 -timeout 15m -parallel 4 -v ./test/chaos
	go test -count=1 -timeout 20m -v -run $(QUICK) ./test/conformance

# These make and compare thousands of files, begin their program hundreds of times, or write until a store is full, one after the
# other. The race detector would find nothing in that which it does not find in the other tests of their packages, and make it five
# times as long.
BULKY := ^TestTorture|^TestWhatAFileSystemCanNotKeep|^TestEventsOn|^TestClonesOn|^TestBlocksOn|^TestGenerationsOn|^TestNoBlocks|KilledAnywhere
BULKY := $(BULKY)|^TestFollowerKilled|^TestDamagedStream|CutAnywhere|^TestSessionsCutAgain|^TestReadyTells|^TestQuotaThat|^TestFullStore

# peer waits most of its time, so it runs beside these.
.PHONY: units
units: ## the tests of all packages, with the race detector
	go test -timeout 20m -run '$(BULKY)' ./control/... ./migrate/transfer ./migrate/feed ./provision/step ./internal/pki
	$(RACE) -shuffle=on -timeout 20m -skip '$(BULKY)' $$(go list ./... | grep -v -e /test$$ -e /test/chaos$$ -e /test/clients$$ -e /test/conformance$$ -e /test/migrations$$ -e /cloud/sandbox$$ -e /test/simulation$$)

# What conformance adds to the other tests in a few minutes: the wire, retries and volumes at both engines' sockets.
QUICK := '^TestEngines|^TestC(0|1|2|3[0-2]|3[4-9]|4[0-4])'
RESULTS := bin/conformance

# A promise that does not hold is shown in the page and fails the last line; so the lines before it go on.
.PHONY: conformance
conformance: prepare build ## tries all promises about Docker's protocol (an hour); writes docs/conformance.md
	rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	-go test -count=1 -json -run '^TestC[0-9]' $$(go list ./... | grep -v -e /test$$ -e /test/ -e /cloud/sandbox$$) >$(RESULTS)/process.json
	-(cd driver/peer && go test -count=1 -json -parallel 32 ./...) >$(RESULTS)/peer.json
	-(cd driver/peer && go test -count=1 -json -parallel 32 -modfile=v20.mod ./...) >$(RESULTS)/peer20.json
	-go test -count=1 -json -timeout 40m -run '^TestC[0-9]|^TestBootstrapMakes' ./test >$(RESULTS)/system.json
	-go test -count=1 -json -timeout 40m ./test/clients -rounds 20 >$(RESULTS)/clients.json
	-go test -count=1 -json -timeout 60m ./test/conformance -long >$(RESULTS)/engines.json
	go run ./tools/conformance -into docs/conformance.md $(RESULTS)/*.json

.PHONY: test-clients
test-clients: prepare build ## Swarm, Compose and Podman on sandbox hosts, which fetch them with apt-get (10 min)
	go test -count=1 -timeout 40m -v ./test/clients

.PHONY: e2e-postgres
e2e-postgres: prepare ## PostgreSQL under load on sandbox hosts, which fetch it with apt-get, while its volume moves ten times (15 min)
	cd test/postgres && go test -count=1 -timeout 40m -v ./...

# Docker's own client and volume store against the driver, in a module of their own so that the product's graph holds no
# Docker; go.mod lists the Docker of 28.5, v20.mod that of 20.10. Most of the time the tests wait for Docker's retries.
.PHONY: peer
peer: ## the driver against Docker's own client and volume store, of two ages, in process
	cd driver/peer && $(RACE) -count=1 -parallel 32 ./...
	cd driver/peer && $(RACE) -count=1 -parallel 32 -modfile=v20.mod ./...

# Five minutes of a processor, which tests on hosts would begin with; beside the units it takes what they leave.
.PHONY: images
images: build ## the images of hosts on this machine, where they are missing
	nice bin/mobyctl sandbox up --name images --hosts 2 --distros bookworm,trixie --light
	bin/mobyctl sandbox down --name images

# What a cluster on whole hosts shows of the promises about Docker's protocol: half of the time that ./test takes.
PROMISES := ^TestC[0-9]|^TestDiscovery|^TestPluginStatus

.PHONY: hosts
hosts: ## the sandbox, and a whole cluster on its hosts
	go test -count=1 -timeout 60m -v -skip '$(PROMISES)' ./provision/cloud/sandbox ./test

.PHONY: promises
promises: ## a second cluster, for what is promised about Docker's protocol
	go test -count=1 -timeout 60m -v -run '^TestBootstrapMakes|$(PROMISES)' ./test

.PHONY: check
check: ## everything that can be said about the code without running it
	$(MAKE) --jobs=2 --output-sync=target lint tidy

.PHONY: lint
lint: $(LINT)/staticcheck $(LINT)/errcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "these files are not formatted: run gofmt -w"; exit 1; }
	go vet ./...
	go vet -tags failpoints,bench ./...
	$(LINT)/staticcheck ./...
	$(LINT)/errcheck -exclude tools/lint/errcheck.txt ./...
	cd driver/peer && go vet ./... && ../../$(LINT)/staticcheck ./...
	cd driver/peer && go vet -modfile=v20.mod ./...
	cd test/postgres && go vet ./... && ../../$(LINT)/staticcheck ./...
	cd tools/rules && go vet ./... && ../../$(LINT)/staticcheck ./... && go test -count=1 ./...
	go test -count=1 ./internal/arch

# Most of the time it waits for the modules of other modules' tests, so it runs beside lint.
.PHONY: tidy
tidy:
	go mod tidy -diff
	cd driver/peer && go mod tidy -diff
	cd driver/peer && go mod tidy -modfile=v20.mod -diff
	cd test/postgres && go mod tidy -diff
	cd tools/rules && go mod tidy -diff

# Linters have a module of their own, so that the product's graph stays small. staticcheck finds dead code and
# misuse of the standard library; errcheck finds errors that nobody looked at.
$(LINT)/%: tools/lint/go.mod
	@mkdir -p $(LINT)
	cd tools/lint && go build -o ../../$(LINT)/ honnef.co/go/tools/cmd/staticcheck github.com/kisielk/errcheck

.PHONY: simulation
simulation: ## a hundred hours of the control plane and its nodes in a minute, each run the same for its seed
	go test -count=1 -v ./test/simulation

.PHONY: bench
bench: prepare build ## measures against doing it by hand; writes docs/benchmarks.md
	go test -count=1 -timeout 30m -tags bench -run '^TestBench$$' -v ./test -bench-into $(CURDIR)/docs/benchmarks.md

.PHONY: bench-move
bench-move: build ## measures moves against rsync, tar and btrfs send (two hours); writes docs/benchmarks-move.md
	tools/prepare.sh rsync iperf3
	go test -tags bench -c -o bin/movebench ./test/movebench
	bin/movebench -test.v -test.timeout 4h -test.run '^TestBenchMove$$' -bench-into $(CURDIR)/docs/benchmarks-move.md $(BENCH_FLAGS)

.PHONY: bench-driver
bench-driver: prepare build ## measures what the driver costs Docker; writes docs/benchmarks-driver.md
	go test -count=1 -timeout 60m -tags bench -run '^TestBenchDriver$$' -v ./test -bench-into $(CURDIR)/docs/benchmarks-driver.md

.PHONY: bench-control
bench-control: build ## measures the control plane with 10,000 agents and a million volumes; writes docs/benchmarks-control.md
	go test -count=1 -timeout 60m -tags bench -run '^TestBenchControl$$' -v ./test/scale -control $(CURDIR)/bin/mobyfs-control -bench-into $(CURDIR)/docs/benchmarks-control.md

.PHONY: bench-leader
bench-leader: ## kills the control that leads thirty times, and measures until the next acknowledged change
	go test -count=1 -timeout 20m -tags bench -run '^TestBenchLeader$$' -v ./cmd/mobyfs-control

.PHONY: chaos
chaos: ## ten minutes of faults against a cluster of real programs, and then all checks
	go test -count=1 -timeout 40m -v -run '^TestRandomSeed$$' ./test/chaos -for 10m

.PHONY: chaos-long
chaos-long: ## a thousand faults (half an hour); writes docs/chaos.md
	go test -count=1 -timeout 150m -v -run '^TestLong$$' ./test/chaos -for 2h -long -into $(CURDIR)/docs/chaos.md

.PHONY: chaos-moves
chaos-moves: prepare build ## 200 moves between real hosts with a fault in each (an hour); writes docs/chaos-moves.md
	go test -count=1 -timeout 5h -v ./test/migrations -moves 200 -into $(CURDIR)/docs/chaos-moves.md

.PHONY: schedules
schedules: ## 10,000 random schedules of containers, nodes and failures, against a model (an hour)
	$(RACE) -count=1 -timeout 150m -run RandomSchedules ./agent -seeds 10000 -rounds 1

.PHONY: torture
torture: ## moves a tree of a million entries and one of a million names between all backends (hours; holes of 160 GiB in TMPDIR)
	go test -count=1 -timeout 12h -v -run 'TestTorture|TestWhatAFileSystemCanNotKeep' ./migrate/transfer -torture-full

.PHONY: feeds
feeds: ## twenty seeds of the random writer for each feed of changes, and the small torture tree cold and live between all backends (half an hour)
	go test -count=1 -timeout 60m -v -run 'TestEventsOn|OnXFS|OnExt4|OnBtrfs|TestNoBlocks' ./migrate/feed -seeds 20
	go test -count=1 -timeout 60m -v -run TestTorture ./migrate/transfer -torture-both

.PHONY: fuzz
fuzz: ## twenty minutes of fuzzing, recorded in docs/fuzzing.md
	tools/fuzz.sh docs/fuzzing.md

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | column -ts "$$(printf '\t')"
