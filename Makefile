# Every target does its own set-up: a fresh clone needs only Python >= 3.11 and make.
#   make PYTHON=python3.13 ...   another interpreter
#   make test PYTEST_ARGS="-k hold -x"

PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# The generator is old on purpose, and has an environment of its own: see protos/README.md.
PROTOS_VENV := .venv-protos
PROTOS_INSTALLED := $(PROTOS_VENV)/.grpcio-tools-1.71.2
PROTOS_TOOLS := "grpcio-tools==1.71.2" "protobuf>=5.29,<6"
STUBS := client/drawdown/v1

# Most tests wait, for a store, a process or a timeout: two workers per core. Each has a set of servers of its own.
TEST_WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores < 4 ? 2 * cores : 8 )))

# Those that measure; the table of speed first.
BENCHES := speed $(filter-out speed compare profile capacity,$(basename $(notdir $(wildcard tests/bench/*.py))))

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) ## the virtual environment alone

.PHONY: run
run: $(INSTALLED) ## a server on 127.0.0.1:50051 with its own Valkey and Postgres (ARGS="--fresh": empty)
	@exec $(BIN)/drawdown-server dev $(ARGS)

.PHONY: demo
demo: $(INSTALLED) ## a gateway's traffic on a stack of its own, then the books are checked (TRACE=file.csv)
	@exec $(BIN)/drawdown-server demo $(if $(TRACE),--trace "$(TRACE)") $(ARGS)

.PHONY: test
test: $(INSTALLED) ## every test but the minutes-long ones (PYTEST_ARGS="...")
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m "not soak" $(PYTEST_ARGS)

.PHONY: soak
soak: $(INSTALLED) ## the minutes-long tests: faults on real processes, kills, model beside scripts (SECONDS=n SEED=n STEPS=n TWIN_SEED=n)
	HYPOTHESIS=soak STEPS=$${STEPS:-1000000} SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) \
	$(BIN)/python -m pytest -n auto --maxprocesses $(TEST_WORKERS) -s -m soak $(PYTEST_ARGS)

.PHONY: mutation
mutation: $(INSTALLED) ## break the rules in the Lua one at a time; every mutant must be caught (ARGS="word of a name")
	PYTHONPATH=tests $(BIN)/python -m mutation.run $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## the table of speed, on this machine; tests/bench/README.md reads it (BENCH=script_cost, BENCH=all; ARGS="...")
	@for bench in $(if $(filter all,$(BENCH)),$(BENCHES),$(or $(BENCH),speed)); do \
		echo "== $$bench"; PYTHONPATH=tests $(BIN)/python -m "bench.$$bench" $(ARGS); \
	done

.PHONY: lint
lint: $(INSTALLED) $(PROTOS_INSTALLED) ## format, style, types, import layers, protos, generated code fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate_into,$$fresh); \
	diff -r -x __init__.py -x __pycache__ "$$fresh/drawdown/v1" $(STUBS) \
		|| { echo "$(STUBS) is not what protos/ generates; run: make generate" >&2; exit 1; }; \
	echo "generated code is fresh"

.PHONY: format
format: $(INSTALLED) ## what ruff can put right by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: generate
generate: $(PROTOS_INSTALLED) ## the Python stubs from protos/
	@rm -f $(STUBS)/*_pb2.py $(STUBS)/*_pb2.pyi $(STUBS)/*_pb2_grpc.py
	@$(call generate_into,client)

.PHONY: lock
lock: ## requirements.lock from pyproject.toml, and the image's from it, keeping versions (ARGS="--upgrade": the newest of all)
	@tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" $(PIP_INSTALL) uv; \
	cp requirements.lock "$$tools/lock" 2>/dev/null || true; \
	sed -n '/^requires = /s/.*\[\(.*\)\].*/\1/p' pyproject.toml | tr -d '" ' | tr ',' '\n' > "$$tools/build.in"; \
	{ cat "$$tools/build.in"; echo editables; } > "$$tools/all.in"; \
	compile() { "$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate "$$@"; }; \
	keep() { { echo "# Made by: make lock"; grep -v '^#' "$$1"; } > "$$2"; }; \
	compile --extra dev pyproject.toml "$$tools/all.in" -o "$$tools/lock" $(ARGS); \
	keep "$$tools/lock" requirements.lock; \
	compile --extra server pyproject.toml -c "$$tools/lock" -o "$$tools/server"; \
	keep "$$tools/server" deploy/image/server.lock; \
	compile "$$tools/build.in" -c "$$tools/lock" -o "$$tools/build"; \
	keep "$$tools/build" deploy/image/build.lock

.PHONY: clean
clean: ## what the other targets made, except the data in .drawdown/
	rm -rf $(VENV) $(PROTOS_VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find client server tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	$(call require_python)
	@$(BIN)/python -c '' 2>/dev/null || { echo "making $(VENV)"; $(call make_venv,$(VENV)); }
	@echo "installing what requirements.lock pins"
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(PROTOS_INSTALLED):
	$(call require_python)
	@echo "making $(PROTOS_VENV)"; $(call make_venv,$(PROTOS_VENV))
	@$(PROTOS_VENV)/bin/python $(PIP_INSTALL) $(PROTOS_TOOLS)
	@touch $@

define require_python
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); choose one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Drawdown needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); choose another: make PYTHON=..." >&2; \
		exit 1; }
endef

define make_venv
$(PYTHON) -m venv --clear $(1) || { echo "$(PYTHON) cannot make virtual environments (Debian: apt-get install python3-venv)" >&2; exit 1; }
endef

define generate_into
$(PROTOS_VENV)/bin/python -m grpc_tools.protoc -I protos --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $$(cd protos && find . -name '*.proto' | sed 's,^\./,,' | sort)
endef
