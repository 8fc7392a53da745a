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
	knowledge-bpe-single.0 knowledge-bpe-multi5_permute.0 \
	$(foreach seed,$(KNOWLEDGE_SEEDS),knowledge-masked-single.$(seed) knowledge-masked-multi5_permute.$(seed))
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

# The other data sets of the paper, its celebrities (who alone are asked about), rewritten people, a grammar; LoRA; two
# data sets, once, with a tokenizer in which names and values are several tokens; and with words that are hidden.
knowledge_more = $(KNOWLEDGE_RUNS)_more/rope-*-$(arm)-seed$(seed)-????????
$(filter knowledge-more-%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(call knowledge_of,$(arm)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)_more
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(knowledge_more)) $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_more_asked
$(filter knowledge-bpe-%,$(KNOWLEDGE_REST)): arm = $(basename $(@:knowledge-bpe-%=%))
$(filter knowledge-bpe-%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies $(KNOWLEDGE_SIZE) $(KNOWLEDGE_BPE) $(knowledge_$(arm)) seed=$(seed) runs=$(KNOWLEDGE_RUNS)_bpe
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)_bpe/rope-*-$(arm)-seed$(seed)-????????) \
		$(KNOWLEDGE_BPE_ASKED) runs=$(KNOWLEDGE_RUNS)_bpe_asked
$(filter knowledge-masked-%,$(KNOWLEDGE_REST)): arm = $(basename $(@:knowledge-masked-%=%))
$(filter knowledge-masked-%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=biographies model=bidirectional_rope objective=masked $(KNOWLEDGE_SIZE) $(knowledge_$(arm)) \
		seed=$(seed) runs=$(KNOWLEDGE_RUNS)_masked
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_masked_asked \
		start.run=$$(echo $(KNOWLEDGE_RUNS)_masked/bidirectional_rope-*-$(arm)-seed$(seed)-????????)
$(filter knowledge-lora.%,$(KNOWLEDGE_REST)):
	OMP_NUM_THREADS=1 $(BIN)/python -m lab.train experiment=questions start=run start.run=$$(echo $(KNOWLEDGE_RUNS)/rope-*-multi5_permute-seed$(seed)-????????) \
		adapter=lora adapter.rank=8 adapter.embedding_rank=21 scale.learning_rate=3e-3 $(KNOWLEDGE_ASKED) runs=$(KNOWLEDGE_RUNS)_lora

knowledge-full: knowledge ## docs/knowledge-full.md: the paper's other data sets, celebrities, rewritten people, a grammar, LoRA, another tokenizer, masked models (hours more, not measured yet)
	$(MAKE) --jobs $(KNOWLEDGE_JOBS) $(KNOWLEDGE_REST)
	for part in "" _asked; do $(BIN)/python -m lab.compare runs="[$(KNOWLEDGE_RUNS)$$part/rope-*-single-seed?-????????,$(KNOWLEDGE_RUNS)_more$$part/*]" \
		factor=data reference=single 'measure=[answers,biography_recall]' output=$(KNOWLEDGE)/knowledge/more$$part || exit 1; done
	$(BIN)/python -m lab.compare runs='[$(KNOWLEDGE_RUNS)_asked/rope-*-multi5_permute-seed?-????????,$(KNOWLEDGE_RUNS)_lora/*]' factor=adapter \
		allow=[optimizer,scale.learning_rate] 'measure=[answers,biography_recall]' output=$(KNOWLEDGE)/knowledge/lora
	for part in "" _asked; do $(BIN)/python -m lab.compare runs="$(KNOWLEDGE_RUNS)_bpe$$part/*" factor=data reference=single 'measure=[answers,biography_recall]' \
		output=$(KNOWLEDGE)/knowledge/bpe$$part || exit 1; done
	for part in "" _asked; do $(BIN)/python -m lab.compare runs="$(KNOWLEDGE_RUNS)_masked$$part/*" factor=data reference=single 'measure=[answers,biography_recall]' \
		output=$(KNOWLEDGE)/knowledge/masked$$part || exit 1; done
	$(BIN)/python -m lab.claims --study knowledge_full --output $(KNOWLEDGE)/knowledge-full.md --documents asked=$(KNOWLEDGE)/knowledge/asked/documents.csv.gz \
		more=$(KNOWLEDGE)/knowledge/more_asked/documents.csv.gz masked=$(KNOWLEDGE)/knowledge/masked/documents.csv.gz \
		'masked and asked=$(KNOWLEDGE)/knowledge/masked_asked/documents.csv.gz'

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
