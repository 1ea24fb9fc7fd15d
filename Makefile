# `make demo` and `make test` do all their own set-up: a virtual environment in .venv and the
# project installed in it, once, and again whenever pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types layers unit dashboards bench clean

demo: $(STAMP)
	$(BIN)/llumnix demo --report report.html --json out.json

test: lint types layers unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/pytest -q -n 2 --dist loadfile

dashboards: $(STAMP)
	$(BIN)/llumnix dashboards --out dashboards

bench: $(STAMP)
	$(BIN)/python benchmarks/migration_downtime.py --quick
	$(BIN)/python benchmarks/kill_instances.py --quick

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis report.html out.json
