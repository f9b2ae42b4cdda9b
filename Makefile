# Everything a newcomer types. Each target makes .venv by itself; only Python 3.11 or newer is needed.
#
#   make demo     segment an organ shown in one example, on a phantom, and write a page of overlays
#   make test     style, types and tests: what continuous integration runs
#   make serve    the workbench in the browser, with two phantoms to try; needs npm to build the page
#
# PYTHON=python3.12 picks the interpreter; PIP_FLAGS="..." is passed to pip (an index, a proxy).

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n auto --dist loadfile
DEMO_FLAGS ?=
SERVE_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) -c constraints.txt
CHECK_PYTHON := import sys; v = sys.version_info; v >= (3, 11) or \
	sys.exit(f'latentseg needs Python 3.11 or newer, this is {v[0]}.{v[1]}. Try: make PYTHON=python3.11')

.PHONY: help venv demo serve page test lint types format build clean
.DEFAULT_GOAL := help

help:
	@sed -n '3,7p' Makefile | cut -c3-

venv: $(STAMP)

# torch first: it is by far the largest, and the rest then resolves against the pinned build.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c "$(CHECK_PYTHON)"
	@echo "Making $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e '.[train,text,maisi,bench,dicom,serve,dev]'
	@$(PIP) 'ray>=2.9' || echo "ray could not be installed: its tests are skipped"
	@$(PIP) --no-deps monailabel==0.8.5 || echo "no client of MONAI Label: its test is skipped"
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/latentseg demo $(DEMO_FLAGS)

serve: $(STAMP) page
	@$(BIN)/latentseg serve --demo $(SERVE_FLAGS)

page: src/latentseg/serve/page/index.html

src/latentseg/serve/page/index.html: $(wildcard web/*.html web/*.json web/*.ts web/src/*)
	@command -v npm >/dev/null || { echo "The page needs npm to be built: install Node.js 20 or newer."; exit 1; }
	cd web && npm ci --no-audit --no-fund && npm run build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -q $(PYTEST_FLAGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

clean:
	rm -rf web/node_modules src/latentseg/serve/page $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
