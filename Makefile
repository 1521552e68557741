# The commands of the README. Everything that is needed beyond Rust, Python 3.10 and what `apt-get` says is set up here.

PYTHON  := .venv/bin/python
SETUP   := tests/reality/setup.sh
FUZZ_SECONDS := 30

.DEFAULT_GOAL := help
.PHONY: help build demo test check-rust test-rust test-reality outage bad-neighbour burst completions parking abuse h2spec bench lint deny fmt fuzz setup

help:
	@echo "make demo [KEEP=1]  two real Temporal clusters and the gateway between them, shown step by step"
	@echo "make test           all tests, those against real Temporal servers included"
	@echo "make outage         a cluster is lost 20 times for 5 s: what its callers notice, with the gateway and without"
	@echo "make bad-neighbour  one operation always fails: what the healthy one beside it notices, likewise"
	@echo "make burst          ten times the rate limit for 3 s: what is served, with shaping and without"
	@echo "make completions    1000 operations come home while gateways are killed and the caller is away: none is lost"
	@echo "make parking        2000 parked operations while gateways are killed and the target comes and goes: none is lost"
	@echo "                    outage and bad-neighbour with parking beside the same without: FLAGS=--park"
	@echo "make abuse          hostile clients of many kinds: what a good one beside them notices, and the gateway's memory"
	@echo "make h2spec         the HTTP/2 conformance suite of that name (installed with Go)"
	@echo "make bench          CPU per request beside nginx, and memory (needs nginx and wrk)"
	@echo "make lint | fmt     clippy and formatting | format"
	@echo "make deny           licences, bans and sources of all dependencies (installs cargo-deny where it lacks)"
	@echo "make fuzz           each fuzz target for 30 seconds (needs cargo-fuzz and a nightly toolchain)"

build:
	cargo build --release --locked

demo: build
	@$(SETUP) --demo
	@KEEP=$(KEEP) $(PYTHON) tests/reality/demo.py

# Both kinds need what is set up: a Redis, real Temporal servers. The Python tests come last: their summary ends the output.
test: setup test-rust test-reality

test-rust:
	cargo test --locked

test-reality: build setup
	$(PYTHON) -m pytest -c tests/reality/pytest.ini --rootdir tests tests/reality tests/deploy

# The long forms of six tests, some minutes each: figures for reading. FLAGS="--help" tells what can be varied.
outage: EXPERIMENT = outage
bad-neighbour: EXPERIMENT = bad_neighbour
burst: EXPERIMENT = burst
completions: EXPERIMENT = completions
parking: EXPERIMENT = parking
abuse: EXPERIMENT = abuse
outage bad-neighbour burst completions parking abuse: build
	@$(SETUP) --demo
	@PYTHONPATH=tests/reality $(PYTHON) -m experiments.$(EXPERIMENT) $(FLAGS)

H2SPEC_VERSION := v2.2.1+incompatible
h2spec: build
	@$(SETUP) --demo
	@[ -x .venv/bin/h2spec ] || GOBIN=$(CURDIR)/.venv/bin go install github.com/summerwind/h2spec/cmd/h2spec@$(H2SPEC_VERSION)
	@PYTHONPATH=tests/reality $(PYTHON) -m experiments.h2spec $(FLAGS)

setup:
	@$(SETUP)

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet

# Built without optimization: it runs for seconds, and takes minutes to build.
deny:
	@cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --no-default-features cargo-deny@0.20.2
	cargo deny --locked check licenses bans sources

fmt:
	cargo fmt

bench: build setup
	$(PYTHON) benches/compare/run.py
	$(PYTHON) benches/compare/run.py --only cpu --contenders gateway-bare,gateway-everything

# What is found stays below fuzz/target; what is worth keeping is minimised into fuzz/corpus by hand.
fuzz:
	for target in authority certificate configuration failure head jwt link path query redact seal started timeout; do \
	    mkdir -p fuzz/target/found/$$target && \
	    cargo +nightly fuzz run --sanitizer none $$target fuzz/target/found/$$target fuzz/corpus/$$target \
	        -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
