MAKEFLAGS += --no-print-directory

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

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
	cargo nextest run --workspace --no-fail-fast
	cargo test --quiet --doc -p tamis-filter
	@.ci/setup skipped

soak: filters ## the tests that go on for long: 1,200 changes under load, 200 of them bad, and 200 kills; 10 minutes at most
	@.ci/setup build
	cargo build --workspace --bins --tests
	TAMIS_SOAK_CHANGES=1200 TAMIS_KILLS=200 timeout 10m \
		cargo test --workspace --test main -- --nocapture soak:: state::a_kill

lint: filters ## formatting and clippy, all workspaces
	cargo fmt --all --check
	cd filters && cargo fmt --check
	cargo fmt --manifest-path filters/battery/build/Cargo.toml --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --manifest-path filters/Cargo.toml --target-dir target --all-targets -- -D warnings
	cargo clippy --manifest-path filters/battery/build/Cargo.toml --target-dir target -- -D warnings

# Its new inputs stay out of the tree; what fails is kept in fuzz/artifacts, and belongs into fuzz/corpus with its mending.
FUZZ_SECONDS := 60
FUZZ_TARGETS := $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

fuzz: ## each fuzz target for FUZZ_SECONDS (60): new inputs for what `make test` tries with those of fuzz/corpus
	@.ci/setup build
	@.ci/setup fuzz
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p fuzz/target/corpus/$$target; \
		(cd fuzz && cargo fuzz run --sanitizer none $$target target/corpus/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=60 -print_final_stats=1) || exit 1; \
	done

bench: filters ## criterion benches
	cargo bench -p tamis-benches

compare: build ## Tamis beside other proxies, measured side by side
	cargo run --release -p tamis-benches --bin compare -- $(ARGS)

changes: build ## what changes of a running Tamis take, and what traffic feels of them
	cargo run --release -p tamis-benches --bin changes -- $(ARGS)

clean: ## remove everything that was built
	rm -rf target filters/target fuzz/target

# The filters as components. Anything that a filter is made of counts: the list is short, and make is fast.
GUESTS := $(patsubst filters/%/Cargo.toml,%,$(wildcard filters/*/Cargo.toml))
COMPONENTS := $(GUESTS:%=filters/target/components/%.wasm)
GUEST_SOURCES := .ci/guests filters/Cargo.lock $(shell find filters filter-abi \
	\( -name target -o -path filters/battery -o -path filters/wasi \) -prune -o \( -name '*.rs' -o -name '*.toml' -o -name '*.wit' \) -print)

filters: $(COMPONENTS) ## the bundled filters, as components: filters/target/components/*.wasm
	@:

$(COMPONENTS) &: $(GUEST_SOURCES)
	@.ci/setup build
	@.ci/setup guest
	@.ci/guests $(GUESTS)

# The battery is one filter in five languages, and in two at once: `two` takes from `words`. Rust's tools are there already, the others' are their own.
BATTERY := $(patsubst %,filters/target/components/battery-%.wasm,c go js python words)
BATTERY_RUST := filters/target/components/battery-rust.wasm filters/target/components/battery-two.wasm
BATTERY_WIT := filter-abi/wit/tamis.wit filters/battery/wit/world.wit
BATTERY_HELPER := filters/target/host/debug/battery-build

guests-all: ## all filters, after installing what the battery's languages need
	@.ci/setup battery
	@$(MAKE) filters battery wasi

battery: $(BATTERY_RUST) $(BATTERY) ## the battery, in the languages whose tools are there
	@:

$(BATTERY_RUST) &: .ci/guests filters/Cargo.lock $(BATTERY_WIT) \
		$(shell find filters/battery/rust filters/battery/two filters/battery/words/wit -type f)
	@.ci/setup build
	@.ci/setup guest
	@.ci/guests battery-rust battery-two

# For `$*` among what is depended on.
.SECONDEXPANSION:
$(BATTERY): filters/target/components/battery-%.wasm: \
		.ci/battery $(BATTERY_WIT) $(BATTERY_HELPER) $$(shell find filters/battery/$$* -type f)
	@.ci/battery build $*

$(BATTERY_HELPER): $(shell find filters/battery/build -type f)
	@.ci/setup build
	@echo "battery: building its helper"
	@cargo build --quiet --locked --manifest-path filters/battery/build/Cargo.toml --target-dir filters/target/host
	@touch $@

# Components for WASI, which know nothing of Tamis: what the tests of standard components run.
WASI_RUST := $(patsubst filters/wasi/%/Cargo.toml,wasi-%,$(wildcard filters/wasi/*/Cargo.toml))
WASI_RUST_COMPONENTS := $(WASI_RUST:%=filters/target/components/%.wasm)

WASI_OTHER := $(patsubst %,filters/target/components/wasi-%.wasm,\
	js-fetch-02 js-service-03 python-middleware-03 python-service-02)

wasi: $(WASI_RUST_COMPONENTS) $(WASI_OTHER) ## components for WASI, in the languages whose tools are there
	@:

$(WASI_RUST_COMPONENTS) &: .ci/guests filters/Cargo.lock \
		$(shell find filters/wasi/wit filters/wasi/rust-* -type f)
	@.ci/setup build
	@.ci/setup guest
	@.ci/guests $(WASI_RUST)

$(WASI_OTHER): filters/target/components/wasi-%.wasm: \
		.ci/wasi $(shell find filters/wasi/wit -type f) $$(shell find filters/wasi/$$* -type f)
	@.ci/wasi $*

.PHONY: help demo build test soak lint fuzz bench compare clean filters guests-all battery wasi
