# Everything starts here. The machine needs make and Python 3.11 or newer, nothing else.
#
#   make demo    set up, then train and download a reward model on this machine
#   make test    set up, then run every test
#   make check   format, lint, types, import contracts, tests: what CI runs
#   make serve   API and one trainer on SQLite, http://127.0.0.1:8000
#   make bench-train    stock TRL against the engine here, in turns
#   make fuzz    thousands of made-up requests against the OpenAPI document, new ones every time
#   make bench-api      the HTTP layer against an empty endpoint, and with many jobs
#   make bench-start    submit to first step against the cold CLI
#   make bench-transfer files of 2 GB in bounded memory
#   make bench-upload   checking and converting uploads against json.loads, and their memory
#   make architectures  try every architecture and write docs/architectures.md
#   make openapi        write from the code what it says: docs/openapi.json, errors, settings
#   make chaos  strike the whole service with FAULTS=300 seeded faults on both databases
#   make lock    resolve constraints.txt anew from pyproject.toml
#
# On Linux PyPI's torch brings CUDA along (gigabytes). A machine without a GPU may say
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := constraints.txt
TORCH := $(shell grep ^torch== $(PINS))
# Many tests wait for processes, so two at a time pay on two cores; -n 0 is one after the other.
PYTEST := $(BIN)/python -m pytest -n 2

.PHONY: venv demo serve test fuzz check format architectures bench-api bench-start bench-train bench-transfer bench-upload chaos openapi lock clean

venv: $(VENV)/.dev

demo: $(VENV)/.worker
	$(BIN)/plaudit demo

serve: $(VENV)/.worker
	$(BIN)/plaudit serve

test: $(VENV)/.dev
	$(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

fuzz: $(VENV)/.dev
	PLAUDIT_FUZZ_CASES=100 $(BIN)/python -m pytest -s tests/api/test_contract.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# BENCH="--database-url postgresql+psycopg://…" measures on PostgreSQL, BENCH="--jobs 20000" less.
bench-api: $(VENV)/.dev
	$(BIN)/python -m bench.api $(BENCH)

bench-start: $(VENV)/.dev
	$(BIN)/python -m bench.start

bench-transfer: $(VENV)/.dev
	$(BIN)/python -m bench.transfer $(BENCH)

bench-upload: $(VENV)/.dev
	$(BIN)/python -m bench.upload $(BENCH)

architectures: $(VENV)/.dev
	$(BIN)/python -m bench.architectures

bench-train: $(VENV)/.dev
	$(BIN)/python -m bench.train

openapi: $(VENV)/.dev
	$(BIN)/python -m docs.reference

# Needs the programs of PostgreSQL and Redis; SEED=7 repeats a run.
FAULTS ?= 300
REAL ?= 6
SEED_OPTION := $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/.dev
	$(BIN)/python -m bench.chaos --faults $(FAULTS) --real $(REAL) $(SEED_OPTION)
	$(BIN)/python -m bench.chaos --faults $(FAULTS) --real $(REAL) $(SEED_OPTION) --database sqlite

# A resolve of its own, blind to what is installed here. torch stays where it is (its pin is moved
# by hand) and is written without the "+cpu" of whatever wheel this machine happens to take.
lock: $(VENV)/bin/python
	@mkdir -p .cache
	$(PIP) install --quiet --dry-run --ignore-installed --report .cache/lock.json \
		'.[worker,dev]' '$(TORCH)'
	$(BIN)/python -c 'import json; \
		found = [p["metadata"] for p in json.load(open(".cache/lock.json"))["install"]]; \
		pins = {f["name"].lower(): f["version"].split("+")[0] for f in found}; \
		del pins["plaudit"]; \
		print("# Made by `make lock`; Makefile and Dockerfile install from it."); \
		print(*(f"{name}=={pins[name]}" for name in sorted(pins)), sep="\n")' > .cache/lock.txt
	mv .cache/lock.txt $(PINS)

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# Stamps: the second `make` costs nothing until pyproject.toml or the pins change.
$(VENV)/.dev: $(VENV)/.worker
	$(PIP) install --quiet -c $(PINS) -e '.[worker,dev]'
	@touch $@

# torch goes first and alone, so that no later resolve can talk it into another version.
$(VENV)/.worker: pyproject.toml $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV): the first time this takes some minutes."
	$(PIP) install --quiet '$(TORCH)'
	$(PIP) install --quiet -c $(PINS) -e '.[worker]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Plaudit needs Python 3.11 or newer with venv and pip" \
		"(Debian, Ubuntu: apt install python3-venv), or say make PYTHON=/path/to/python." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
