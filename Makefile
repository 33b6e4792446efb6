# Each target sets up what it needs (a virtual environment, pinned packages, the embedded base) and then does its job.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUESTIONS ?= 6
WORKERS ?= 2

INSTALLED := $(VENV)/.installed
BASE := $(VENV)/.base

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow lint clean

demo: $(BASE)
	$(BIN)/clara demo --questions $(QUESTIONS)

test: $(BASE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

test-slow: $(BASE)
	$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable '.[test]'
	@touch $@

$(BASE): embedded_clara.py wheel_clara.py | $(INSTALLED)
	$(BIN)/python -c "from clara.embedded_clara import embedded_base_path; print(embedded_base_path())"
	@touch $@
