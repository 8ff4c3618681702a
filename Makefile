# make run    builds the validators and the gateway, and serves on 127.0.0.1:8000
# make test   runs every test
# make soak   kills the gateway and its Postgres under load for SOAK_SECONDS (600), and compares every answer with every row;
#             then swaps a module ten times a second under load for SWAP_SECONDS (30), and holds every event against its module
# make check  formatting, lints, documentation, dependencies
# make bench  measures the gateway against ceilings of the same run, and writes the figures into BENCHMARKS.md (25 minutes)
#             bench-quick: the same for less long, printed only; bench-instructions: instructions for each step, by callgrind
# make demo   shows the gateway with real input
.PHONY: run test soak bench bench-quick bench-instructions profile bench-build check demo modules setup

GUEST = cargo build --profile guest --target wasm32-unknown-unknown

run: setup
	validators/install --modules modules
	cargo build --release -p eye
	./target/release/eye serve

test:
	./setup tests
	$(GUEST) -p guests --examples
	$(MAKE) modules
	cargo nextest run --workspace
	cargo test --workspace --doc

SOAK_SECONDS ?= 600
SWAP_SECONDS ?= 30

soak:
	SOAK_SECONDS=$(SOAK_SECONDS) cargo nextest run --profile soak -p eye --no-capture crash_loop::
	SWAP_SECONDS=$(SWAP_SECONDS) cargo nextest run --profile soak -p eye --no-capture swaps::

bench: bench-build
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench full

bench-quick: bench-build
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench quick

bench-instructions: modules
	cargo build --release -p eye -p eye-bench
	./target/release/instructions

# Where the gateway's time goes, symbol by symbol; half a minute.
profile: bench-build
	ulimit -n "$$(ulimit -Hn)" && ./target/release/eye-bench profile

bench-build: setup modules
	cargo build --release -p eye -p eye-bench

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

demo: setup
	validators/install --modules target/modules
	cargo build --release -p eye
	npm ci --prefix demo --no-audit --no-fund
	node demo/demo.mjs

setup:
	./setup
