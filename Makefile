# make run    builds the validators and the gateway, and serves on 127.0.0.1:8000
# make test   runs every test
# make soak   kills the gateway and its Postgres under load for SOAK_SECONDS (600), and compares every answer with every row
# make check  formatting, lints, documentation, dependencies
# make demo   shows the gateway with real input
.PHONY: run test soak check demo modules setup

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

soak:
	SOAK_SECONDS=$(SOAK_SECONDS) cargo nextest run --profile soak -p eye --no-capture crash_loop::

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
