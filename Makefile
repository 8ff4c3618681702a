# make run    builds the validators and the gateway, and serves on 127.0.0.1:8000
# make release  builds the gateway for the last tenth of its speed, into target/dist/eye: in one unit for each crate, and with the
#             profile that `make release-profile` has made in target/release.profdata, if it has (several times as long as make run)
# make dist   packs the program of `make release` and all that belongs to it into an archive in target/archive
# make test   runs every test but those of the areas below (3 minutes, once all is built)
# make test-faults   databases, networks, disks and clocks that fail, and floods (up to 8 minutes)
# make test-operate  restarts gateways under load, with a service manager and behind a load balancer; runs them against poolers,
#             promoted standbys, and a cluster of Patroni, etcd and HAProxy, and prints what was lost and for how long nothing
#             was stored; has promtool run the cases of the alert rules, and a Prometheus read a gateway; holds image, compose
#             file, unit files, chart and archive by foreign tools, and runs them in containers (up to 8 minutes)
# make test-fleet  runs several gateways on one database: pushes under load, gateways that die, hang or are cut off, a thousand
#             modules, leases and jobs that pass to another gateway; prints what it measures (up to 8 minutes)
# make test-authors  begins validators' projects, builds, tests, pushes, judges and takes them back, by the built program and the
#             languages' own tools, and runs the official JSON Schema test suite, which pip fetches (up to 6 minutes)
# make test-upgrade  builds the program of BEFORE (the commit before the newest migration) from the history, and runs it and this
#             program on one database, forward and back (a minute, and the first time a build of the gateway more)
# make panel  builds the panel from gateway/ui with Node 20 or later; make run does so by itself where there is npm
# make test-panel  uses the panel in a real browser (Debian's chromium) as people do, and the bundles of validators (4 minutes)
# make soak   kills the gateway and its Postgres under load for SOAK_SECONDS (600), and compares every answer with every row;
#             then swaps a module ten times a second under load for SWAP_SECONDS (30), and holds every event against its module
# make test-modules  loads module files that are made to hurt, then compares MODULES (2,000) generated modules in every way of
#             judging, and with Node's engine, from SEED (1) on (up to 8 minutes)
# make check  formatting, lints, documentation, dependencies
# make bench  measures the gateway against ceilings of the same run, over the socket file and over TCP, and writes the figures into
#             BENCHMARKS.md (20 minutes)
#             bench-quick: the same for less long, printed only; bench-instructions: instructions for each step, by callgrind
#             profile: in which symbols the gateway's time goes
# make release-profile  notes what runs how often under load, for `make release` (as long as two builds of that kind)
# make attack  has slowhttptest, h2load, nmap and curl attack a gateway beside a healthy client, and prints a table
# make openapi  asks the built gateway what openapi.json allows and much that it does not, and holds the answers to it
#             (EXAMPLES for each operation, 50, within SECONDS, 300)
# make fuzz   feeds each parser whatever a fuzzer thinks of, FUZZ_SECONDS (30) each, after building all in another way (minutes)
# make demo   shows the gateway with real input
.PHONY: run engine panel panel-if-possible test-panel release dist announce test test-built test-authors test-faults test-fleet test-operate test-upgrade test-modules soak attack bench bench-quick bench-instructions profile bench-build release-profile openapi fuzz check demo modules setup

GUEST = cargo build --profile guest --target wasm32-unknown-unknown

# The names of functions are a quarter of the program.
STRIP = strip --strip-all
RELEASE = cargo build --release -p eye && $(STRIP) target/release/eye

# An event passes through more code than a processor keeps at hand, so the compiler is told what of it runs and how often. It is
# told instead of whatever RUSTFLAGS or cargo's configuration would add. The counts hold for what `-p eye` alone builds: with
# other packages beside it, cargo would turn on other features of what it is built from. A profile fits one compiler and one
# state of the code; an old one makes nothing wrong.
PROFILE = target/release.profdata
DIST = $(if $(wildcard $(PROFILE)),CARGO_ENCODED_RUSTFLAGS="-Cprofile-use=$(CURDIR)/$(PROFILE)") cargo build --profile dist -p eye

# Processor seconds of the first build on a fast processor. A slow one needs up to three times as many.
FIRST_BUILD_S = 540

# The benchmark has the ceilings in it, and is built as the gateway is.
BENCH = cargo build --release -p eye-bench

# The panel is built where npm is. The gateway is built and runs without it too; its page then says what is missing.
PANEL = gateway/ui/dist/index.html
PANEL_SOURCE = gateway/openapi.json gateway/ui/package-lock.json gateway/ui/build.mjs $(shell find gateway/ui/src -type f ! -name schema.ts)

panel: $(PANEL)

$(PANEL): $(PANEL_SOURCE)
	cd gateway/ui && npm ci --no-audit --no-fund --silent && npm run --silent build

# What judges by schema files. The gateway has it in it when it is built afterwards, and is built without it too.
engine:
	validators/install --engines

panel-if-possible:
	@if command -v npm >/dev/null; then $(MAKE) panel || echo "The panel was not built; the gateway runs without it."; \
	else echo "There is no npm, so the panel is not built; the gateway runs without it."; fi

run: setup announce panel-if-possible
	validators/install --modules modules
	$(RELEASE)
	./target/release/eye serve

announce:
	@if [ ! -e target/release/eye ]; then \
		echo "The first build compiles the validators and the gateway from source: about $(FIRST_BUILD_S) processor seconds," \
			"$$(( $(FIRST_BUILD_S) / $$(nproc) / 60 + 1 )) minutes on the $$(nproc) processors of this machine if they are fast," \
			"up to three times as long if they are slow. Later builds compile what has changed."; \
	fi

release: setup engine panel-if-possible
	@$(if $(wildcard $(PROFILE)),echo "Building with $(PROFILE).",echo "Building without a profile; make release-profile makes one.")
	$(DIST)
	$(STRIP) target/dist/eye
	@ls -l target/dist/eye

dist: release modules
	./setup dist
	deploy/pack --program target/dist/eye --modules target/modules

# What every test needs: its tools, the test modules and the shipped validators.
test-built:
	./setup tests
	$(GUEST) -p guests --examples
	$(MAKE) modules

test: test-built
	cargo nextest run --workspace
	cargo test --workspace --doc

test-faults: test-built
	cargo nextest run --profile faults --workspace

test-authors: test-built
	cargo nextest run --profile authors --workspace

test-fleet: test-built
	cargo nextest run --profile fleet --workspace

test-operate: test-built
	./setup operate
	cargo nextest run --profile operate --workspace --no-capture

# Migrations may come into the history out of order, so the newest is the one with the highest number: the program before it
# knows all those below. It is built from its own source in target/before, and begins with what is built here, since it depends
# on much the same. Features depend on what is chosen, so it is built as the tests are, with its tests.
BEFORE ?= $(shell git log -1 --format=%H^ --diff-filter=A -- migrations/$(notdir $(lastword $(sort $(wildcard migrations/*.sql)))))
BEFORE_DIR = target/before

test-upgrade: test-built
	rm -rf $(BEFORE_DIR)/source && mkdir -p $(BEFORE_DIR)/source
	git archive $(BEFORE) | tar -x -C $(BEFORE_DIR)/source
	git log -1 --format='The program of before is that of %h: %s' $(BEFORE)
	mkdir -p $(BEFORE_DIR)/target/debug
	[ -e $(BEFORE_DIR)/target/debug/deps ] || for part in .fingerprint build deps; do cp -a target/debug/$$part $(BEFORE_DIR)/target/debug/; done
	cargo test --no-run --workspace --test integration --manifest-path $(BEFORE_DIR)/source/Cargo.toml --target-dir $(BEFORE_DIR)/target
	PROGRAM_BEFORE=$(CURDIR)/$(BEFORE_DIR)/target/debug/eye cargo nextest run --profile upgrade --workspace --no-capture

# The panel in a real browser, Debian's chromium or the one that CHROMIUM names.
test-panel: panel modules
	./setup panel
	cargo test --no-run --workspace --test integration
	cd gateway/ui && node --test --test-concurrency=1 tests/*.test.mjs

MODULES ?= 2000
SEED ?= 1

test-modules: test-built
	cargo nextest run --profile modules --workspace --no-capture
	EYE_TEST_MODULES=$(MODULES) EYE_TEST_SEED=$(SEED) cargo nextest run --profile soak --workspace --no-capture generated_modules

SOAK_SECONDS ?= 600
SWAP_SECONDS ?= 30

soak:
	SOAK_SECONDS=$(SOAK_SECONDS) cargo nextest run --profile soak --workspace --no-capture crash_loop::
	SWAP_SECONDS=$(SWAP_SECONDS) cargo nextest run --profile soak --workspace --no-capture swaps::

attack: engine
	./setup attack
	$(RELEASE)
	tests/tools/attack target/release/eye

bench: bench-build
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench full

bench-quick: bench-build
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench quick

bench-instructions: bench-build
	./setup measure
	./target/release/instructions

# Where the gateway's time goes, symbol by symbol; half a minute. A gateway with its symbols is another build.
profile: export CARGO_PROFILE_RELEASE_STRIP = none
profile: STRIP = true
profile: bench-build
	./setup measure
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench profile

bench-build: setup modules
	$(GUEST) -p guests --example spins_always
	$(RELEASE)
	$(BENCH)

# The instrumented gateway takes the loads of a comparison in turn with the one of `make run`. Its build runs instrumented
# programs too, whose counts are not wanted.
INSTRUMENTED = target/instrumented

release-profile: bench-build
	./setup release-profile
	CARGO_ENCODED_RUSTFLAGS="-Cprofile-generate=$(CURDIR)/$(INSTRUMENTED)/counts" \
		cargo build --profile dist -p eye --target-dir $(INSTRUMENTED)
	rm -rf $(INSTRUMENTED)/counts
	./target/release/eye-bench compare target/release/eye $(INSTRUMENTED)/dist/eye 2
	"$$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata merge -sparse -o $(PROFILE) $(INSTRUMENTED)/counts

FUZZ_SECONDS ?= 30
FUZZ_TARGETS = envelope lines json proxy_protocol forwarded module_path cursor

# Instrumented code needs the compiler's unstable flags, which RUSTC_BOOTSTRAP allows to the toolchain that is there. No
# sanitizer: the gateway has no unsafe code, so what is looked for are panics and broken promises.
fuzz:
	./setup fuzz
	RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir fuzz -s none
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; mkdir -p fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir fuzz -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

# The shipped validators, where the tests find them.
modules:
	validators/install --modules target/modules

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	./setup checks
	cargo deny check licenses bans sources
	@if timeout 60 cargo deny fetch db >/dev/null 2>&1; then cargo deny check advisories; else echo 'the advisory database cannot be reached: advisories were not checked'; fi

openapi: setup engine
	cargo build -p eye
	tests/tools/schemathesis

demo: setup
	validators/install --modules target/modules
	$(RELEASE)
	npm ci --prefix demo --no-audit --no-fund
	node demo/demo.mjs

setup:
	./setup
