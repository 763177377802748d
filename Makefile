# Every target sets itself up; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
SIZE ?= laptop
BUDGET ?=
VENV := .venv
RUN := $(VENV)/bin/python
NOTEBOOKS = $(sort $(wildcard notebooks/[0-9]*.ipynb))

.PHONY: help env test reproduce smoke notebook report browser bench pretrain stale lint clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(VENV)/.installed  ## .venv with the exact versions of requirements.lock, and nothing else

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

test: env  ## the tests (15 minutes or less)
	$(RUN) -m pytest -q tests

reproduce: env  ## run the stale notebooks, redraw their figures (SIZE=smoke, laptop or full)
	$(RUN) -m lib.run $(NOTEBOOKS) --size $(SIZE)
	$(RUN) -m lib.report --size $(SIZE)

smoke:  ## reproduce at the smallest size, into reports/smoke
	$(MAKE) reproduce SIZE=smoke

notebook: env  ## JupyterLab on notebooks/
	PYTHONPATH=$(CURDIR) $(RUN) -m jupyter lab notebooks/

report: env  ## a site of the executed notebooks, reports/site/index.html
	$(RUN) -m lib.site --size $(SIZE)

browser: env  ## the site's pages and, in JupyterLab, notebook 04 with an edit, in headless Chromium
	$(RUN) tests/browser.py

bench: env  ## speed of rendering, sampling, learning a reward and fine-tuning on this machine
	$(RUN) -m lib.bench

pretrain: env  ## train the shipped models again (BUDGET=minutes)
	$(RUN) -m pretrain $(if $(BUDGET),--minutes $(BUDGET))

stale: env  ## name the notebooks that reproduce would run
	$(RUN) -m lib.run --check $(NOTEBOOKS) --size $(SIZE)

lint: env  ## ruff
	$(RUN) -m ruff check .

clean:  ## drop cached stages, executed notebooks and smoke results (keeps .venv, reports, training checkpoints)
	mkdir -p .cache && find .cache -mindepth 1 -maxdepth 1 ! -name pretrain -exec rm -rf {} +
	rm -rf reports/smoke reports/notebooks reports/site .pytest_cache .ruff_cache
