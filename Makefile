# What a newcomer types: `make demo`, `make test`. Needs Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --python $(RUN) install --quiet -c constraints.txt
DEMO := runs/demo
# Prints the path of a photograph that scikit-image ships.
BUNDLED = $(RUN) -c 'from srflow_jax.data.folders import photographs; \
  print(photographs("", "validation")[0][1])'

.PHONY: demo test test-slow lint install clean

demo: $(VENV)/installed
	$(RUN) enlarge.py $$($(BUNDLED)) --out=$(DEMO)/enlarged --overwrite
	@echo "Pictures to look at first: $(DEMO)/enlarged/"
	@echo "Now a small flow is trained on the same encoder, for minutes, and evaluated beside bicubic."
	$(RUN) train.py --config=configs/demo.py --workdir=$(DEMO)/run
	$(RUN) evaluate.py --workdir=$(DEMO)/run --num_samples=5 --temperature=0.4
	@echo "Its pictures: $(DEMO)/run/evaluation/sheets/"

test: lint
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/installed-dev
	$(RUN) -m pytest -m slow

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

install: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) pip -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache srflow_jax.egg-info
