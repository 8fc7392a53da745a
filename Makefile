# The two commands are `make run` and `make test`. Both make the environment .venv and use it again while it is
# current, that is, as long as pyproject.toml and constraints.txt have not changed.
PYTHON ?= python3
BIN := .venv/bin

PILOT_MODELS := nope rope alibi window_nope window_rope window_alibi narrow_window_nope
PILOT_SEEDS := 0 1 2 3 4
# A run a core: two runs of one thread train faster than one of two.
PILOT_JOBS ?= $(shell nproc)
PILOT_RATES := $(foreach rate,1e-3 4e-3,pilot-rate-nope.$(rate) pilot-rate-rope.$(rate))
PILOT_RUNS := $(foreach seed,$(PILOT_SEEDS),$(foreach model,$(PILOT_MODELS),pilot-run-$(model).$(seed)))

.PHONY: run test command-test process-test slurm-test docs-test check table bench gpu-check kill-test pilot pilot-seed $(PILOT_RUNS) $(PILOT_RATES) clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

run: .venv/installed ## train the default decoder, score it, show the result (about 8 minutes on two cores)
	$(BIN)/python -m lab.train model=nope

test: .venv/installed-test ## run the tests (under 10 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(foreach slow,end_to_end processes slurm gpu docs,--ignore=tests/$(slow))

command-test: .venv/installed-test ## the commands as a user types them, wrong input too (about 8 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/end_to_end

process-test: .venv/installed-test ## runs that are stopped, killed and continued, on one process and on two (about 7 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/processes

slurm-test: .venv/installed-test ## the tests on a real SLURM of two virtual nodes (needs Debian's packages; it says which)
	$(BIN)/python -m pytest tests/slurm

docs-test: .venv/installed-test ## run the commands of README.md and docs/, follow their links (about 4 minutes on two cores)
	$(BIN)/python -m pytest -n 2 tests/docs

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

PART ?= kernels
GPU_PYTHON = $(if $(wildcard .venv/installed-test),$(BIN)/python,$(PYTHON))
gpu-check: ## check kernels, resume or speed on a GPU, a part at a time: PART=kernels|resume|bench
	@$(GPU_PYTHON) -c 'import lab.train, pytest' || \
		{ echo "error: $(GPU_PYTHON) lacks a package; give one that has all of pip install -e '.[test]': make gpu-check PYTHON=..." >&2; exit 1; }
	$(GPU_PYTHON) -m tests.gpu.check $(PART)

kill-test: .venv/installed-test ## kill 100 training runs and compare them with one that was not (about 15 minutes)
	$(BIN)/python tests/kill/kill_test.py --runs 100 --csv docs/kill_test.csv

pilot: .venv/installed-eval ## the pilot study: 35 runs, scored and compared (about 11 hours on two cores; goes on if stopped)
	for seed in $(PILOT_SEEDS); do $(MAKE) pilot-seed SEED=$$seed || exit 1; done
	$(MAKE) --jobs $(PILOT_JOBS) $(PILOT_RATES)
	$(BIN)/python -m lab.compare runs='runs/pilot/*' reference=rope $(PILOT_MEASURES) scoring.segments=2 output=docs/pilot
	$(BIN)/python -m lab.compare runs='runs/pilot/*' reference=rope match=validation_loss_nats $(PILOT_SHORT) output=docs/pilot/matched
	for model in nope rope; do $(BIN)/python -m lab.compare runs="[runs/pilot/$$model-*-seed0-*,runs/pilot_rates/$$model-*]" \
		factor=scale.learning_rate $(PILOT_SHORT) output=docs/pilot/rates_$$model || exit 1; done
	$(BIN)/python -m lab.claims --documents docs/pilot/documents.csv.gz --output docs/claims.md

# A seed is trained and scored on one kind of machine: what of an unfinished one was trained elsewhere is begun anew.
pilot-seed: whole = runs/pilot/.seed$(SEED)-whole
pilot-seed:
	test -e $(whole) || test ! -d runs/pilot || \
		$(BIN)/python -m lab.status runs/pilot --match '*-seed$(SEED)-*' --elsewhere --remove --yes
	test -e $(whole) || $(BIN)/python -m lab.prepare blocks experiment=pilot_study seed=$(SEED)
	test -e $(whole) || $(MAKE) --jobs $(PILOT_JOBS) $(foreach model,$(PILOT_MODELS),pilot-run-$(model).$(SEED))
	touch $(whole)

PILOT_SHORT := 'measure=[loss_by_position,excess]' scoring.segments=1
PILOT_MEASURES := 'measure=[loss_by_position,excess,context_gain,copy]'
$(PILOT_RUNS): model = $(basename $(@:pilot-run-%=%))
$(PILOT_RUNS): seed = $(patsubst .%,%,$(suffix $@))
$(PILOT_RUNS): score = OMP_NUM_THREADS=1 $(BIN)/python -m lab.extrapolate runs='runs/pilot/$(model)-*-seed$(seed)-*' $(PILOT_MEASURES) scoring.segments=2
$(PILOT_RUNS):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=pilot_study model=$(model) seed=$(seed)
	$(score)
	$(score) evaluation=kjv scoring.documents=12
	$(score) evaluation=shakespeare scoring.documents=12

# How much the learning rate matters: the pilot's nope and rope, seed 0, at half and at twice its rate.
$(PILOT_RATES): model = $(basename $(@:pilot-rate-%=%))
$(PILOT_RATES): rate = $(patsubst .%,%,$(suffix $@))
$(PILOT_RATES):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=pilot_study model=$(model) scale.learning_rate=$(rate) runs=runs/pilot_rates

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
