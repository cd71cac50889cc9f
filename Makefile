# Two commands on a fresh machine: `make demo` and `make test`. They need Python >= 3.11, pip and make.
PYTHON ?= python3
# ALL=1 also tests with the frameworks and engines that are too large for CI, in an environment of their own.
VENV := $(if $(filter 1,$(ALL)),.venv-all,.venv)
BIN := $(VENV)/bin
MODEL := answerai-colbert-small-v1

# Linux: MLX's CPU wheel, for the tests alone. A Mac: mlx is a dependency and brings Metal.
# NO_MLX=1 takes MLX out and tests numpy alone.
ifeq ($(NO_MLX),1)
EXTRAS := dev,plot,files,code,server,mcp
else ifeq ($(shell uname -s),Linux)
EXTRAS := dev,plot,files,code,server,mcp,rag,decoder,cpu
else
EXTRAS := dev,plot,files,code,server,mcp,rag,decoder
endif
ifeq ($(ALL),1)
EXTRAS := $(EXTRAS),ecosystem
endif
COMMA := ,
TESTED := $(VENV)/installed-$(subst $(COMMA),-,$(EXTRAS))

.PHONY: demo test quick check docs clean

demo: $(BIN)/mlx-colbert
	rm -rf demo/$(MODEL) demo/index
	@echo; echo "1. Fetch a real ColBERT model: answerai-colbert-small-v1, 33 million weights of 8 bits."
	$(BIN)/python examples/fetch_models.py $(MODEL)
	@echo; echo "2. Convert it to the format of this package. Nothing in it is run; torch is not needed."
	$(BIN)/mlx-colbert convert --hf-path .cache/$(MODEL) --mlx-path demo/$(MODEL)
	@echo; echo "3. Compare its scores: \"expected\" was published with other libraries, \"measured\" is ours."
	$(BIN)/mlx-colbert verify-model demo/$(MODEL) --published answerdotai/$(MODEL)
	@echo; echo "4. Index 240 paragraphs of Wikipedia: one vector for each token."
	$(BIN)/mlx-colbert index examples/data/xquad-en/corpus.jsonl --index demo/index --model demo/$(MODEL)
	@echo; echo "5. Ask. Each answer is a paragraph, with its score: the best matches of the question's tokens, added."
	$(BIN)/mlx-colbert search "Why do divers get decompression sickness?" --index demo/index -k 2 --full
	$(BIN)/mlx-colbert search "How do viruses hide from the immune system?" --index demo/index -k 2 --full
	$(BIN)/mlx-colbert search "When did the last ice age end?" --index demo/index -k 3

# worksteal: some files take much longer than others.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# The durations say where the next minute can be saved.
test: $(TESTED)
	./tests/run.sh $(BIN)/python $(PARALLEL) --durations=40 --durations-min=2

# What a change needs at every step: no kills, benchmarks, fuzzing, real models. One thread for each BLAS, because
# the workers use all cores.
quick: $(TESTED)
	OPENBLAS_NUM_THREADS=1 ./tests/run.sh $(BIN)/python -m "not slow" --hypothesis-profile=quick $(PARALLEL)

check: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	./tests/types.sh $(abspath $(BIN))/mypy

# The documentation site, strictly and without a network: build/site/html.
docs: $(VENV)/installed-for-docs
	$(BIN)/python docs/build_site.py

clean:
	rm -rf .venv .venv-all .cache build demo dist *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(BIN)/mlx-colbert: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TESTED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
ifeq ($(NO_MLX),1)
	$(BIN)/python -m pip uninstall --quiet --yes mlx mlx-cpu mlx-metal
endif
	@rm -f $(VENV)/installed-dev-*
	@touch $@

# Its own mark: to build the site needs nothing of the tests.
$(VENV)/installed-for-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@
