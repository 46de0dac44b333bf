# Run `make help` for the list of targets. Every target installs what it needs into $(VENV) first.
# PYTHON selects the interpreter (3.11 or newer), VENV the virtual environment, TEST_PROCESSES how many processes test.

PYTHON ?= python3
VENV ?= .venv
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-slow bench ablation audit clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP)  ## create the virtual environment and install the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## run all four stages on this machine (11 min on two cores); writes runs/demo/evaluation/report.html
	$(BIN)/spatialt2i demo

check: setup  ## lint, import directions, format and types
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: setup  ## run all tests except the slow ones and those that need a GPU
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: setup  ## run the slow tests: kill and add processes and nodes during a run, resume stopped jobs
	$(BIN)/python -m pytest -m slow -n $(TEST_PROCESSES) --dist loadfile

bench: setup  ## measure throughput ratios and print them as tables; asserts nothing
	$(BIN)/python -m tests.bench

ablation: setup  ## train variants of stage 3 against the demo's SpatialScore, three seeds each; resumes
	$(BIN)/spatialt2i ablation

audit: setup  ## look up known vulnerabilities of the pinned packages; needs the network
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt \
	  || { echo "audit failed. If it says 'could not be audited', this package index publishes no advisories" >&2; exit 1; }

clean:  ## remove the virtual environment and build files; keeps runs/
	rm -rf $(VENV) build *.egg-info
