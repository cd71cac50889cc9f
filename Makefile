# Two commands on a fresh machine: `make demo` and `make test`. They need Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINILM := .cache/all-MiniLM-L6-v2

# Linux: MLX's CPU wheel, for the tests alone. A Mac: mlx is a dependency and brings Metal.
# NO_MLX=1 takes MLX out and tests numpy alone.
ifeq ($(NO_MLX),1)
EXTRAS := dev,plot
else ifeq ($(shell uname -s),Linux)
EXTRAS := dev,plot,rag,decoder,cpu
else
EXTRAS := dev,plot,rag,decoder
endif
COMMA := ,
TESTED := $(VENV)/installed-$(subst $(COMMA),-,$(EXTRAS))

.PHONY: demo test quick check clean

demo: $(BIN)/mlx-colbert
	rm -rf demo/minilm demo/index
	$(BIN)/python examples/fetch_minilm.py $(MINILM)
	$(BIN)/mlx-colbert convert --hf-path $(MINILM) --mlx-path demo/minilm
	$(BIN)/mlx-colbert index examples/data/xquad-en/corpus.jsonl --index demo/index --model demo/minilm
	$(BIN)/mlx-colbert search "Why do divers get decompression sickness?" --index demo/index -k 2 --full
	$(BIN)/mlx-colbert search "How do viruses hide from the immune system?" --index demo/index -k 2 --full
	$(BIN)/mlx-colbert search "When did the last ice age end?" --index demo/index -k 3

test: $(TESTED)
	./tests/run.sh $(BIN)/python

# What a change needs at every step: no kills, benchmarks, fuzzing, real models.
quick: $(TESTED)
	./tests/run.sh $(BIN)/python -m "not slow" -n auto --dist worksteal

check: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	./tests/types.sh $(abspath $(BIN))/mypy

clean:
	rm -rf $(VENV) .cache build demo dist *.egg-info

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
	@rm -f $(VENV)/installed-*
	@touch $@
