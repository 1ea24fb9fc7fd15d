# `make demo`, `make test` and `make test-vllm` do all their own set-up: a virtual environment in
# .venv and the project installed in it, once, and again whenever pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What `make test-vllm` runs against: the first with the whole suite, the others with its core.
VLLM_VERSIONS := 0.32.0 0.30.0

# The files share two workers, in order: tests/conftest.py puts first what takes longest.
UNIT := -q -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/vllm

ifndef SEED
SEED := $(shell date +%s)
endif

.PHONY: demo test audit test-random test-vllm lint types layers unit dashboards bench bench-scale soak clean

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
	$(BIN)/pytest $(UNIT)

# Advisories against what the product depends on; needs the package index's advisory service, and
# says loudly if it cannot be asked. LLUMNIX_REQUIRE_AUDIT=1 makes that an error.
audit: $(STAMP)
	$(BIN)/python -m tests.audit

# The same in another order every time; SEED=N repeats one.
test-random: $(STAMP)
	@echo "make test-random SEED=$(SEED)"
	$(BIN)/pytest $(UNIT) --random-order-bucket=global --random-order-seed=$(SEED)

# Real vLLM servers on this machine's CPU; builds their environments first (some minutes, once).
test-vllm: $(STAMP)
	$(BIN)/python -m llumnix.testbed $(VLLM_VERSIONS)
	$(BIN)/python -m tests.vllm $(VLLM_VERSIONS)

dashboards: $(STAMP)
	$(BIN)/llumnix dashboards --out dashboards

bench: $(STAMP)
	$(BIN)/python benchmarks/migration_downtime.py --quick
	$(BIN)/python benchmarks/kill_instances.py --quick
	$(BIN)/python benchmarks/adversarial.py --quick

# What docs/scale.md rests on: a quarter of an hour on a machine with nothing else to do. The JSON lines go to out/.
bench-scale: $(STAMP)
	mkdir -p out
	failed=0; for each in frontend scheduler_scale workers open_streams; do \
	  $(BIN)/python benchmarks/$$each.py > out/$$each.json 2> out/$$each.txt || failed=1; cat out/$$each.txt; done; \
	exit $$failed

# Half an hour of joins, leaves, kills and drains under load; MINUTES=3 is what CI does.
MINUTES ?= 30
soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-vllm-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis report.html out.json
