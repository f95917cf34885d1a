SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := $(or $(CUBEMESH_CACHE),$(HOME)/.cache/cubemesh)/bin
ROOMS := auth authority benchmarks clock cubemesh picod router serving tests tlsloader workloadmanager
PROTOS := $(sort $(wildcard protos/cubemesh/v1/*.proto))
FOREIGN := $(sort $(wildcard protos/authority/*.proto))

.PHONY: help
help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.locked: requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: venv
venv: $(VENV)/.installed ## make .venv from the lock file

.PHONY: demo
demo: venv ## run untrusted code through the whole mesh and show every proof
	$(BIN)/cubemesh demo

.PHONY: test
test: venv ## run all tests
	$(BIN)/python -m pytest $(ARGS)

.PHONY: matrix
matrix: venv ## show how every bad peer is refused, in both roles
	$(BIN)/python -m tests.tlsloader.matrix

.PHONY: scan
scan: venv ## scan every door of a mesh with sslyze, and show what it finds
	$(BIN)/python -m tests.scan

.PHONY: peers
peers: ## build the real servers that tests talk to, once (needs Go)
	@for script in tests/peers/build*.sh; do bash "$$script"; done

.PHONY: check
check: venv protos-check ## format, lint, types, import contracts, fresh protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: venv ## format the code and sort its imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# generate the code of the .proto files into the folder $(1); of foreign services
# only the messages: whoever speaks to them names their methods itself
define generate
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(1) --grpc_python_out=$(1) \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(1) \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(1) $(PROTOS) && \
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(1) \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(1) $(FOREIGN)
endef

.PHONY: protos
protos: venv ## make the code of protos/ anew
	$(call generate,.)

.PHONY: protos-check
protos-check: venv ## fail if the code of protos/ is not what they give
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate,"$$fresh"); \
	for file in $$(cd "$$fresh" && find . -type f); do \
	  cmp -s "$$fresh/$$file" "$$file" || \
	    { echo "error: $$file is stale"; echo "hint: make protos"; exit 1; }; \
	done

.PHONY: seccomp
seccomp: venv ## build the filters of system calls from picod/seccomp/_rules.py
	$(BIN)/python -m picod.seccomp

.PHONY: flags
flags: venv ## write docs/reference/flags.md anew from what the services read
	$(BIN)/python -m tests.flags_page

.PHONY: bench
bench: venv ## measure the mesh; JSON and pictures into benchmarks/results/
	PATH="$$PATH:$(PEERS)" $(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-docs
bench-docs: venv ## put the latest run of make bench into docs/benchmarks.md, with its pictures
	$(BIN)/python -m benchmarks document

.PHONY: soak
soak: venv ## 10 minutes of changing identities under load, 10,000 sandboxes; nothing may fail or stay
	$(BIN)/python -m benchmarks.soak $(ARGS)

.PHONY: cover
cover: venv ## run the tests and tell which lines they reach
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: lock
lock: venv ## pin newer versions of all dependencies in requirements.lock
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	$(VENV)/lock/bin/uv pip compile --quiet --upgrade --universal --no-strip-extras --generate-hashes --no-annotate --no-header \
	  --python-version 3.11 --extra services --extra otlp --extra bench --group dev --output-file requirements.lock pyproject.toml

.PHONY: dist
dist: venv ## build the three wheels into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python -m build --wheel --no-isolation --outdir dist deploy/services
	$(BIN)/python -m build --wheel --no-isolation --outdir dist deploy/bench

.PHONY: clean
clean: ## remove what make made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
