MAKEFLAGS += --no-print-directory

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

demo: filters ## build everything and run `tamis demo`
	@.ci/setup build
	cargo build --release -p tamis
	target/release/tamis demo

build: filters ## the proxy, optimised: target/release/tamis
	@.ci/setup build
	cargo build --release -p tamis

test: filters ## every test: the filters', the crates', the whole proxy's
	@.ci/setup build
	@.ci/setup test
	cargo test --quiet --manifest-path filters/Cargo.toml --target-dir target
	cargo build --workspace --bins --tests
	cargo nextest run --workspace
	cargo test --quiet --doc -p tamis-filter
	@.ci/setup skipped

lint: filters ## formatting and clippy, both workspaces
	cargo fmt --all --check
	cd filters && cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --manifest-path filters/Cargo.toml --target-dir target --all-targets -- -D warnings

bench: filters ## criterion benches
	cargo bench -p tamis-benches

compare: build ## Tamis beside other proxies, measured side by side
	cargo run --release -p tamis-benches --bin compare -- $(ARGS)

clean: ## remove everything that was built
	rm -rf target filters/target

# The filters as components. Anything that a filter is made of counts: the list is short, and make is fast.
GUESTS := $(patsubst filters/%/Cargo.toml,%,$(wildcard filters/*/Cargo.toml))
COMPONENTS := $(GUESTS:%=filters/target/components/%.wasm)
GUEST_SOURCES := .ci/guests filters/Cargo.lock $(shell find filters filter-abi -name target -prune -o \
	\( -name '*.rs' -o -name '*.toml' -o -name '*.wit' \) -print)

filters: $(COMPONENTS) ## the bundled filters, as components: filters/target/components/*.wasm
	@:

$(COMPONENTS) &: $(GUEST_SOURCES)
	@.ci/setup build
	@.ci/setup guest
	@.ci/guests

.PHONY: help demo build test lint bench compare clean filters
