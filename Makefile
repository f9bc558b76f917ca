# csel: the door. `make` or `make help` says what there is.
#
# Needs Linux x86-64, Rust 1.95 (rustup.rs or rust-toolchain), and Debian's packages as tests/install.sh lists them (installed by
# `make test`, `make demo`, `make bench` and `make conform` where missing). Everything built lands under $(T).
T := $(or $(CARGO_TARGET_DIR),target)
REL := $(abspath $(T))/release
export CSEL_LIB := $(REL)/libcsel.so
CARGO := cargo

.PHONY: help needs build demo test unit conform apps bench soak fuzz lint symbols headers docs clean
.DEFAULT_GOAL := help

help: ## this text
	@echo 'csel: a TCP/IP stack of its own for each application. Targets:'
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

needs: ## install the Debian packages the tests use (only those missing)
	@tests/install.sh

build: ## the library (target/release/libcsel.so), the launcher (target/release/csel) and the test programs
	$(CARGO) build --release --workspace --locked

demo: needs build ## two web servers on port 80 at once, found by name, and nothing of it seen by the kernel
	@tests/demo.sh

test: ## everything CI runs: build, lint, unit tests, our conformance cases, real programs, tools, demo (.ci/run)
	@tests/test.sh

unit: ## the core's own tests
	@tests/test.sh unit

apps: ## real programs, unmodified, by LD_PRELOAD and by `csel run` (APPS="curl redis", MODES="native preload run", APPS_FULL=1)
	@tests/test.sh apps

conform: needs build ## other people's suites (cpython, node, redis, memcached, socat, tcl, perl, libevent, stress-ng) against the kernel (75 minutes)
	@tests/apps/conform.sh

bench: needs build ## ratios to the kernel's loopback in the same run: table and target/bench.json (BENCH_QUICK=1: 90 s)
	@$(REL)/bench --json $(T)/bench.json

soak: build ## a family of 8 under load, a member killed every 20 ms: SOAK_SECONDS (1200), SOAK_SEED
	@SOAK_SECONDS=$${SOAK_SECONDS:-1200} timeout -k 5 3600 $(REL)/soak
	@STEP_KILLS=$${STEP_KILLS:-25} timeout -k 5 1800 $(CARGO) test --release -q -p csel-tests --test step_kill --locked -- --nocapture

fuzz: ## packets, segment contents and control messages, FUZZ_SECONDS (60) each
	@tests/test.sh fuzz

lint: ## rustfmt, clippy, house rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	@tests/lint.sh

symbols: ## what libcsel.so exports against the table in the shim
	@tests/test.sh symbols

headers: ## the C header against the library
	@tests/test.sh headers

docs: ## the crates' documentation, broken links refused
	RUSTDOCFLAGS='-D rustdoc::broken_intra_doc_links' $(CARGO) doc --workspace --no-deps --document-private-items --locked

clean: ## remove what was built
	$(CARGO) clean
