# vlarl: set-up, tests and the other things one types in a checkout. `make` alone lists them.
# Variables: PYTHON, VENV, VARIANT=cpu|cuda, EXTRAS (added to what a target needs), TESTS (what `make test` runs).
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV ?= .venv
TESTS ?= tests
BIN = $(VENV)/bin
comma := ,
export VENV PYTHON VARIANT TORCH_CPU_INDEX
# A package from ~/.local would shadow the locked one.
export PYTHONNOUSERSITE = 1

.PHONY: help quickstart smoke environment dev test test-slow lint format coverage golden locks locks-check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: environment  ## set up, train recipes/quickstart.yaml, write the report
	$(BIN)/vlarl train recipes/quickstart.yaml
	$(BIN)/vlarl report last

smoke: environment  ## set up, run the same path in under a minute
	$(BIN)/vlarl train recipes/smoke.yaml
	$(BIN)/vlarl report last

environment:  ## system GL libraries where allowed, and the locked environment
	@tools/setup.sh "$(EXTRAS)"

dev:  ## the environment with what tests and lint need
	@tools/setup.sh "dev,libero$(addprefix $(comma),$(EXTRAS))"

test: dev  ## set up and run the tests, as many files at a time as there are cores
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder $(TESTS)

test-slow: dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(TESTS)

lint: dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: dev  ## the tests with coverage of layers 1 to 5, simulator processes included
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -m "not slow" $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

golden: dev  ## the references of tests/golden anew, after a change of numerics that was meant
	rm -rf build/golden
	for name in smoke quickstart; do \
	  $(BIN)/vlarl train recipes/$$name.yaml --set determinism=strict --set run.cache=build/golden/cache --runs build/golden && \
	  rm -rf tests/golden/$$name && \
	  $(BIN)/python tools/publish_run.py build/golden/$$name-* tests/golden/$$name --reference || exit 1; \
	done

locks:  ## resolve the locks again, keeping what is pinned (DATE=today or YYYY-MM-DD for newer packages)
	@python=$$(tools/setup.sh --python) && "$$python" tools/lock_files.py make $(if $(DATE),--date $(DATE))

locks-check: dev  ## fail when the locks are not those of pyproject.toml; needs no network
	$(BIN)/python tools/lock_files.py check

clean:  ## remove what tools left; keeps runs/ and the environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
