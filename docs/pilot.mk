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
.PHONY: pilot pilot-exported pilot-seed $(PILOT_EACH) $(PILOT_RATES)

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
