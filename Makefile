# Each target sets up what it needs (a virtual environment, pinned packages, the embedded base) and then does its job.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUESTIONS ?= 6
WORKERS ?= 2

CORE := $(VENV)/.core
APP := $(VENV)/.app
TOOLS := $(VENV)/.tools
BASE := $(VENV)/.base
INSTALL := $(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo app test test-slow lint clean
.NOTPARALLEL:

demo: $(BASE)
	$(BIN)/clara demo --questions $(QUESTIONS)

app: $(BASE) $(APP)
	GRADIO_ANALYTICS_ENABLED=False $(BIN)/python app.py

test: $(BASE) $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

test-slow: $(BASE) $(TOOLS)
	$(BIN)/python -m pytest -q -m slow

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

$(BASE): embedded_clara.py wheel_clara.py | $(CORE)
	$(BIN)/python -c "from clara.embedded_clara import embedded_base_path; print(embedded_base_path())"
	@touch $@
