# What a newcomer types: `make demo`, `make test`. Needs Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := runs/demo

.PHONY: demo test test-slow lint install clean

demo: install
	$(RUN) train.py --config=configs/tiny.py --workdir=$(DEMO)
	$(RUN) evaluate.py --workdir=$(DEMO) --num_samples=5 --temperature=0.8
	@echo "Pictures to look at first: $(DEMO)/evaluation/sheets/"

test: install lint
	$(RUN) -m pytest -m "not slow"

test-slow: install
	$(RUN) -m pytest -m slow

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(RUN) install --quiet -r requirements-dev.txt -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO)
