# The two commands are `make run` and `make test`. Both make the environment .venv and use it again while it is
# current, that is, as long as pyproject.toml and constraints.txt have not changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test command-test process-test slurm-test docs-test check table bench gpu-check kill-test clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/installed ## train the default decoder, score it, show the result (about 8 minutes on two cores)
	$(BIN)/python -m lab.train model=nope

test: .venv/installed-test ## run the tests (under 10 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(foreach slow,end_to_end processes slurm gpu docs,--ignore=tests/$(slow))

command-test: .venv/installed-test ## the commands as a user types them, wrong input too (about 11 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/end_to_end

process-test: .venv/installed-test ## runs that are stopped, killed and continued, on one process and on two (about 7 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/processes

slurm-test: .venv/installed-test ## the tests on a real SLURM of two virtual nodes (needs Debian's packages; it says which)
	$(BIN)/python -m pytest tests/slurm

docs-test: .venv/installed-test ## run the commands of README.md and docs/, follow their links (about 8 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder tests/docs

check: .venv/installed-test ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

table: .venv/installed ## train the seven variants and compare them (about 45 minutes on two cores)
	$(BIN)/python -m lab.train experiment=pilot_table

bench: .venv/installed-test ## training speed against transformers, kernels against each other
	$(BIN)/python -m lab.bench train model=rope scale=small
	$(BIN)/python -m lab.bench attention
	$(BIN)/python -m lab.bench data
	$(BIN)/python -m lab.bench knowledge

PART ?= kernels
GPU_SECONDS ?= 300
GPU_PYTHON = $(if $(wildcard .venv/installed-test),$(BIN)/python,$(PYTHON))
gpu-check: ## check kernels, resume or speed on a GPU, a part at a time: PART=kernels|resume|bench
	@$(GPU_PYTHON) -c 'import lab.train, pytest' || \
		{ echo "error: $(GPU_PYTHON) lacks a package; give one that has all of pip install -e '.[test]': make gpu-check PYTHON=..." >&2; exit 1; }
	$(GPU_PYTHON) -m tests.gpu.check $(PART) --seconds $(GPU_SECONDS)

kill-test: .venv/installed-test ## kill 100 training runs and compare them with one that was not (about 15 minutes)
	$(BIN)/python tests/kill/kill_test.py --runs 100 --csv docs/kill_test.csv

# The studies, each beside the page that it makes.
comma := ,
space := $(subst ,, )
include docs/real-model.mk docs/pilot.mk docs/positions.mk docs/rope-extension.mk docs/knowledge.mk docs/lens-study.mk docs/edit-study.mk

clean: ## remove the environment (runs stay)
	rm -rf .venv *.egg-info build

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/installed-eval: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[eval]'
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,bench]'
	@touch $@
