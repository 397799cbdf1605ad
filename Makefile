# The machine needs make and Python 3.11 or newer. Every target sets up what it needs in .venv.
#
#   make demo            train, download and use a reward model on this machine
#   make serve           run the API and one worker on SQLite, http://127.0.0.1:8000
#   make test            run all tests
#   make check           what CI runs: formatting, lint, types, import contracts, tests
#   make format          format the code and apply automatic fixes
#   make fuzz            send thousands of generated requests, new ones on every run
#   make chaos           inject FAULTS=300 seeded faults into the whole service, on both databases
#   make attack          attack the service for SECONDS=600 on each database and check its responses
#   make bench-train     compare training with stock TRL
#   make bench-api       compare the HTTP layer with an empty endpoint, and with many jobs
#   make bench-start     compare the time to the first step with a cold `trl reward`
#   make bench-score     compare the scorer with plain PEFT, one text at a time
#   make bench-transfer  measure the server's memory while it transfers files of 2 GB
#   make judge           judge two adapters from end to end and recompute every figure
#   make bench-upload    compare checking and converting uploads with json.loads, and measure memory
#   make architectures   train every architecture and write docs/architectures.md
#   make openapi         generate docs/openapi.json, docs/errors.md and the table of settings
#   make client-models   generate the client's models and its synchronous half
#   make docs            build the documentation site in build/docs
#   make lock            resolve constraints.txt again from both pyproject.toml
#   make sizes           measure what is downloaded; run it after `make lock`
#   make venv            only set up .venv
#   make clean           remove .venv and all caches
#
# On Linux, torch from PyPI includes CUDA (several GB). A machine without an NVIDIA GPU gets the CPU
# build from PyTorch's own index; TORCH_BUILD=default or TORCH_BUILD=cpu overrides the choice.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := constraints.txt
TORCH := $(shell grep ^torch== $(PINS))
TORCH_BUILD ?= auto
# Many tests wait for processes, so two at a time are faster even on two cores. The tests of one
# file share fixtures, so they stay in one process.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: venv demo serve test fuzz check format architectures attack bench-api bench-score bench-start bench-train bench-transfer bench-upload chaos client-models judge docs openapi lock sizes clean

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

# BENCH="--database-url postgresql+psycopg://…" uses PostgreSQL; BENCH="--jobs 20000" is faster.
bench-api: $(VENV)/.dev
	$(BIN)/python -m bench.api $(BENCH)

judge: $(VENV)/.dev
	$(BIN)/python -m bench.judge $(BENCH)

bench-start: $(VENV)/.dev
	$(BIN)/python -m bench.start

bench-score: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.score $(BENCH)

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

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "Open build/docs/index.html"

client-models: $(VENV)/.dev
	$(BIN)/python client/generate.py

# Needs the binaries of PostgreSQL and Redis. SEED=7 repeats a run.
FAULTS ?= 300
REAL ?= 6
SEED_OPTION := $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/.dev
	$(BIN)/python -m bench.chaos --faults $(FAULTS) --real $(REAL) $(SEED_OPTION)
	$(BIN)/python -m bench.chaos --faults $(FAULTS) --real $(REAL) $(SEED_OPTION) --database sqlite

SECONDS ?= 600

attack: $(VENV)/.dev
	$(BIN)/python -m bench.attack --seconds $(SECONDS) $(SEED_OPTION)

# Resolves without regard to what is installed here. torch keeps its version, which is changed by
# hand, and is written without the suffix ("+cpu") of the wheel that this machine uses.
lock: $(VENV)/bin/python
	@mkdir -p .cache
	$(PIP) install --quiet --dry-run --ignore-installed --report .cache/lock.json \
		./client '.[worker,dev]' '$(TORCH)'
	$(BIN)/python -c 'import json; \
		found = [p["metadata"] for p in json.load(open(".cache/lock.json"))["install"]]; \
		pins = {f["name"].lower(): f["version"].split("+")[0] for f in found}; \
		del pins["plaudit"], pins["plaudit-client"]; \
		print("# Made by `make lock`; Makefile and Dockerfile install from it."); \
		print(*(f"{name}=={pins[name]}" for name in sorted(pins)), sep="\n")' > .cache/lock.txt
	mv .cache/lock.txt $(PINS)

# uv's lock files give the size of every wheel; nothing else here uses it.
sizes: $(VENV)/.dev
	$(PIP) install --quiet uv
	$(BIN)/python -m install.measure_sizes

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# Stamp files: nothing is installed again until a pyproject.toml or the pins change.
$(VENV)/.dev: $(VENV)/.worker
	$(PIP) install --quiet -c $(PINS) -e ./client -e '.[worker,dev]'
	@touch $@

# torch is installed first and alone, so that the resolver does not choose another version of it.
$(VENV)/.worker: pyproject.toml client/pyproject.toml $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV). The first time, this takes some minutes."
	@arguments=$$($(BIN)/python -m install.torch_build --torch '$(TORCH)' --build $(TORCH_BUILD)) \
		&& set -x && $(PIP) install --quiet $$arguments '$(TORCH)'
	$(PIP) install --quiet -c $(PINS) -e ./client -e '.[worker]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Plaudit needs Python 3.11 or newer with venv and pip." \
		"Install it (Debian, Ubuntu: apt install python3-venv)," \
		"or name one: make PYTHON=/path/to/python." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
