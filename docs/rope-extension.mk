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
rope_ask = $(BIN)/python -m lab.evaluate tasks=cloze folder=$(ROPE_TRAINED)_cloze

.PHONY: rope rope-full rope-runs

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
ROPE_RETRIEVAL_SEEDS := 0 1 2 3 4
ROPE_KEYS := 'measure.passkey.lengths=[256,512,1024,2048]' measure.passkey.distances=8 measure.passkey.trials=5
ROPE_C := 256
# Searches for 32 C have fewer candidates.
ROPE_FAR := search.documents=3 search.temperature=yarn search.evolution.population=16 search.evolution.parents=8 \
	search.evolution.mutants=4 search.evolution.crossovers=4 search.evolution.generations=10
ROPE_TWICE := scale.tokens=2359296
ROPE_FARTHEST := measure.truncated_perplexity.lengths=[256,512,2048,8192] scoring.segments=1 scoring.longest=4
ROPE_REPORT := 1024
ROPE_SUMMARIES :=
ROPE_ASKED :=
ROPE_CLOZE := --count 492 --characters 500
ifdef SMOKE
ROPE_FULL_FACTORS := 8
ROPE_BY_LENGTH_FULL := 'measure.truncated_perplexity.lengths=[64,128,256,512,1024]'
ROPE_TENFOLD := scale.tokens=8192
ROPE_SCRATCH := experiment=smoke measure=none
ROPE_RETRIEVAL := experiment=smoke measure=none data=sotu_retrieval
ROPE_RETRIEVAL_SEEDS := 0 1
ROPE_KEYS := 'measure.passkey.lengths=[256,512]' measure.passkey.distances=2 measure.passkey.trials=1
ROPE_C := 64
ROPE_FAR := $(ROPE_SEARCH)
ROPE_TWICE := scale.tokens=8192
ROPE_FARTHEST := measure.truncated_perplexity.lengths=[64,128,512,2048] scoring.segments=1 scoring.longest=4 scoring.documents=6
ROPE_REPORT := 512
ROPE_SUMMARIES := scale.tokens=8192 scale.warmup_steps=1 data.corpus.longest_characters=256 data.corpus.reports=50
ROPE_ASKED := measure.summary_facts.documents=6 measure.summaries.documents=6
ROPE_CLOZE := --count 24 --characters 100
endif
# The derived runs of a parent by a rule with a factor, as published.
rope_derived = $$(grep -l "\"name\": \"$(2)\"" $(1)-$(2)-*/manifest.json | xargs -r grep -lE "\"factor\": $(3)(\.0)?," | xargs -r grep -L '"beta_fast": 4.0' | xargs -r -n1 dirname)

rope-full: rope ## docs/rope-extension-full.md: LongRoPE step by step, other factors and lengths, passkeys, summaries, a cloze task (hours more, not measured yet)
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
	$(rope_compare) runs=$(call rope_list,$$(for each in $(ROPE_TRAINED)/rope-*-C$(ROPE_LONG)-*-seed?-????????; do \
		! grep -q '"extensions": \[\]' $$each/manifest.json || echo $$each; done) $(ROPE_TRAINED)_tenfold/rope-*-seed?-????????) \
		factor=scale.tokens measure=truncated_perplexity $(ROPE_BY_LENGTH) output=$(ROPE)/rope/tenfold
	$(BIN)/python -m lab.train -m $(ROPE_SCRATCH) model=rope scale.context=$(ROPE_LONG) scale.micro_batch=4 seed=$(subst $(space),$(comma),$(ROPE_TUNED)) runs=$(ROPE_TRAINED)_scratch
	$(BIN)/python -m lab.extrapolate runs='$(ROPE_TRAINED)_scratch/*' measure=truncated_perplexity $(ROPE_BY_LENGTH) \
		$(filter-out scoring.longest=%,$(ROPE_SCORE)) scoring.longest=2
	$(BIN)/python -m lab.train -m $(ROPE_RETRIEVAL) model=rope seed=$(subst $(space),$(comma),$(ROPE_RETRIEVAL_SEEDS)) runs=$(ROPE_TRAINED)_retrieval
	for s in 2 4; do for rule in position_interpolation ntk yarn; do \
		$(BIN)/python -m lab.extend run='$(ROPE_TRAINED)_retrieval/rope-*-seed?-????????' extension=$$rule extension.factor=$$s || exit 1; done; done
	$(BIN)/python -m lab.compare runs='$(ROPE_TRAINED)_retrieval/*' factor=extension reference=rope measure=passkey $(ROPE_KEYS) output=$(ROPE)/rope/passkey
	BIN='$(BIN)' RUNS='$(ROPE_RUNS)' TRAINED='$(ROPE_TRAINED)' SEEDS='$(ROPE_TUNED)' C='$(ROPE_C)' TUNE='$(ROPE_TUNE)' TWICE='$(ROPE_TWICE)' \
		SEARCH='$(ROPE_SEARCH)' FAR='$(ROPE_FAR)' SCORE='$(ROPE_SCORE)' FARTHEST='$(ROPE_FARTHEST)' TO='$(ROPE)' bash docs/rope-steps.sh
	# Those that can retrieve learn to summarise reports of up to 4 C tokens, interpolated and as they are.
	for base in $(ROPE_TRAINED)_retrieval/rope-*-seed?-????????; do for parent in $$base $(call rope_derived,$$base,position_interpolation,4); do \
		$(BIN)/python -m lab.train experiment=summaries start=run start.run=$$parent scale.context=$(ROPE_REPORT) $(ROPE_SUMMARIES) \
			$(ROPE_ASKED) runs=$(ROPE_TRAINED)_summaries || exit 1; done; done
	$(BIN)/python -m lab.compare runs='$(ROPE_TRAINED)_summaries/*' factor=extension reference=rope 'measure=[summary_facts,summaries]' $(ROPE_ASKED) \
		output=$(ROPE)/rope/summaries
	# Which word ends a sentence? Inside C, without training and with it.
	test -e $(ROPE_TRAINED)_cloze/cloze.yaml || $(BIN)/python -m lab.prepare cloze data=sotu $(ROPE_CLOZE) --output $(ROPE_TRAINED)_cloze
	$(rope_ask) run=$(call rope_list,$(call rope_parents,$(ROPE_SEEDS)) $(addsuffix -position_interpolation-*,$(call rope_parents,$(ROPE_SEEDS)))) \
		output=$(ROPE)/rope/cloze
	$(rope_ask) run='$(ROPE_TRAINED)/rope-*-C$(ROPE_LONG)-*-seed?-????????' output=$(ROPE)/rope/cloze_trained
	$(rope_ask) run='$(ROPE_TRAINED)/rope-*-C$(ROPE_C)-*-seed?-????????' output=$(ROPE)/rope/cloze_control
	$(BIN)/python -m lab.claims --study rope_extension_full --output $(ROPE)/rope-extension-full.md --documents \
		$(foreach each,start_tokens steps direct,$(ROPE)/rope/$(each)/documents.csv.gz) tenfold=$(ROPE)/rope/tenfold/documents.csv.gz \
		'trained 10 %=$(ROPE)/rope/trained_10/documents.csv.gz' retrieval=$(ROPE)/rope/passkey/documents.csv.gz \
		summaries=$(ROPE)/rope/summaries/documents.csv.gz $(ROPE)/rope/cloze/task_documents.csv.gz \
		trained=$(ROPE)/rope/cloze_trained/task_documents.csv.gz control=$(ROPE)/rope/cloze_control/task_documents.csv.gz

rope-runs: .venv/installed
	$(BIN)/python -m lab.train -m experiment=smoke measure=none runs=$(ROPE_RUNS) model=rope seed=$(subst $(space),$(comma),$(ROPE_SEEDS))
