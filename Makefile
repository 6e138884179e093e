# Every target sets up what it needs (in .venv and node_modules) and is quick when nothing changed.
# What set-up says goes to stderr, so that a target's own output starts with its own first line.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
PYTHON := $(BIN)/python
STAMPS := .venv/.stamps
ARGS ?=
MODEL ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export UV_PYTHON_DOWNLOADS := never

# $(call step,what,command): one line on stderr; the command's own output only when it fails.
define step
@echo "setup: $(1)" >&2; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
{ $(2); } >"$$log" 2>&1 </dev/null || { cat "$$log" >&2; echo "setup: failed: $(1)" >&2; exit 1; }
endef

# $(call install,requirements file): by hash. uv is quicker, but does not read pip's configuration: where it fails, pip
# has the word.
install = if command -v uv && uv pip install --quiet --python $(PYTHON) --require-hashes -r $(1); then :; \
	else $(PYTHON) -m pip install --quiet --require-hashes -r $(1); fi

.PHONY: help setup demo test test-attacks test-faults lint up lock bench-control-plane bench-sandbox clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-20s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/project $(STAMPS)/redis node_modules/.stamp ## Create .venv and node_modules; the others run it themselves.
	@:

demo: setup ## The whole way of one issue, on this machine. MODEL=openai:URL#NAME  ARGS=--json
	@$(BIN)/devstral-fix demo $(if $(MODEL),--model '$(MODEL)') $(ARGS)

test: setup ## All tests. ARGS="-k word" and the like go to pytest.
	@$(PYTHON) -m pytest -q -n 2 --dist=loadgroup --ignore=tests/attacks $(ARGS)

test-attacks: setup ## Hostile code in real sandboxes, with controls; as root also as a plain user. ARGS=--short
	@$(PYTHON) -m tests.attacks $(ARGS)

test-faults: setup ## Real processes and servers under faults; what was lost, what doubled; a soak. ARGS=--short
	@$(PYTHON) -m tests.faults $(ARGS)

lint: setup ## Format, rules, types, directions of imports, schema, compose file, locks.
	@$(PYTHON) .ci/lint.py

up: setup ## Everything on this machine: servers, API, workers. ARGS="--isolation basic"
	@$(BIN)/devstral-fix up $(ARGS)

bench-control-plane: setup ## Speed of webhook and queue; writes docs/benchmarks/control-plane.json.
	@$(BIN)/devstral-fix bench control-plane $(ARGS)

bench-sandbox: setup ## Speed of sandboxes and snapshots; writes docs/benchmarks/sandbox.json.
	@$(BIN)/devstral-fix bench sandbox $(ARGS)

lock: ## Resolve the dependencies anew into requirements/*.txt (needs uv) and package-lock.json (needs npm).
	@set -x; compile="uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate $(ARGS)"; \
	$$compile pyproject.toml --extra embedded --extra tracing --group dev --output-file requirements/dev.txt; \
	$$compile pyproject.toml --extra tracing --constraint requirements/dev.txt --output-file requirements/runtime.txt; \
	$$compile --group build --constraint requirements/dev.txt --output-file requirements/build.txt; \
	$$compile --group node --output-file requirements/node.txt; \
	npm install --package-lock-only --loglevel=error

clean: ## Remove what setup and the tools made. Data under .devstral-fix stays.
	@rm -rf .venv node_modules build *.egg-info .mypy_cache .ruff_cache .import_linter_cache

$(STAMPS)/venv:
	@for python in python3 python3.13 python3.12 python3.14 python3.11; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
			>/dev/null 2>&1; then \
			echo "setup: .venv with $$("$$python" --version)" >&2; \
			rm -rf .venv; "$$python" -m venv .venv; mkdir -p $(STAMPS); touch $@; exit 0; \
		fi; \
	done; \
	echo "setup: no Python 3.11 to 3.14 with venv and ensurepip on PATH. On Debian or Ubuntu:" \
		"apt install python3 python3-venv; elsewhere: uv python install 3.13" >&2; exit 1

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/venv
	$(call step,Python packages,$(call install,requirements/dev.txt))
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/dev
	$(call step,devstral-fix itself,$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .)
	@touch $@

$(STAMPS)/redis: worker/adapters/embedded/fetch_redis.py | $(STAMPS)/project
	$(call step,Redis,$(PYTHON) -m worker.adapters.embedded.fetch_redis)
	@touch $@

# Status 3 says that this machine has no node that is new enough; then one comes from a wheel.
node_modules/.stamp: package.json package-lock.json .npmrc | $(STAMPS)/project
	$(call step,node packages,status=0; $(PYTHON) -m worker.demo.node || status=$$?; \
		if [ $$status = 3 ]; then $(call install,requirements/node.txt); $(PYTHON) -m worker.demo.node; \
		else exit $$status; fi)
	@touch $@
