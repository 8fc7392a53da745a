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
# The runs of these models: [runs/pilot/nope-*-seed0-????????,...], without what is derived of them.
positions_of = '[$(subst $(space),$(comma),$(strip $(foreach model,$(1),$(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$(model)-*-seed$(seed)-????????))))]'
positions_analyze = $(BIN)/python -m lab.analyze output=$(POSITIONS)/positions study=$(1) runs=$(call positions_of,$(2)) $(POSITIONS_STUDY)
# Every run of a model, extended.
positions_extend = for run in $(foreach seed,$(POSITIONS_SEEDS),$(POSITIONS_RUNS)/$(1)-*-seed$(seed)-????????); do \
	$(BIN)/python -m lab.extend run=$$run $(2) || exit 1; done
positions_derived = '[$(subst $(space),$(comma),$(strip $(foreach seed,$(POSITIONS_SEEDS),$(foreach name,$(2),$(POSITIONS_RUNS)/$(1)-*-seed$(seed)-????????-$(name)-*))))]'

.PHONY: positions positions-full positions-copy positions-runs

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
