# make setup | demo | check | test | test-slow | audit | bench: each does its own set-up from a bare Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo ablation check test test-slow audit bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## preferences, SpatialScore, GRPO and evaluation on this machine; ends with runs/demo/evaluation/report.html
	$(BIN)/spatialt2i demo

ablation: setup  ## variants of GRPO against the SpatialScore of `make demo`, three seeds each; goes on where it was stopped
	$(BIN)/spatialt2i ablation

check: setup  ## lint, import directions and types
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: setup  ## all but the longer proofs
	$(BIN)/python -m pytest

test-slow: setup  ## the longer proofs: processes and nodes killed and added in mid-run, jobs stopped and resumed
	$(BIN)/python -m pytest -m slow

audit: setup  ## known vulnerabilities of the pinned packages; asks the package index's advisories, so it needs the network
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt \
	  || { echo "not audited, or not clean: 'could not be audited' means that this index or mirror has no advisories" >&2; exit 1; }

bench: setup  ## ratios within one run, as tables; nothing is asserted
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) build *.egg-info
