# Every target sets itself up; `make` alone lists them. Any path may hold a space; GNU make 3.81 (macOS) must do.
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
SIZE ?= laptop
SETUP ?= mini
BUDGET =
PATIENCE ?=
MODEL =
DO =
TO =
RUN = "$(VENV)/bin/python"
NOTEBOOKS = $(sort $(wildcard notebooks/[0-9]*.ipynb))

# Files are read as UTF-8 in every locale, and no package of another Python is found.
export PYTHONUTF8 := 1
unexport PYTHONHOME PYTHONPATH

# The first that runs: a sound environment is used even where PYTHON is not there.
ANY = $(shell for python in "$(PYTHON)" $(RUN); do "$$python" -I -c "" 2>/dev/null && echo "$$python" && break; done)
NONE = Python 3.11 or newer is needed, but $(PYTHON) is not: name a newer one with make PYTHON=python3.11
# JupyterLab refuses root unless told, writes into the home, and would take another python3 kernel from there.
ALLOW_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
WRITABLE_HOME = $(shell test -d "$$HOME" && test -w "$$HOME" && echo "$$HOME" || mktemp -d)
LAB = HOME="$(WRITABLE_HOME)" JUPYTER_PREFER_ENV_PATH=1 PYTHONPATH="$$PWD" $(RUN) -m jupyterlab $(ALLOW_ROOT)

.PHONY: help env test reproduce smoke publish sturdy torture notebook report browser labelstudio campaign export pack bench pretrain stale lint strip clean

help:  ## this list
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

env:  ## .venv with the exact versions of requirements.lock, and nothing else (VENV=folder: elsewhere)
	@"$(or $(ANY),$(error $(NONE)))" -I lib/desk/environment.py "$(VENV)"

test: env  ## the tests (15 minutes or less)
	$(RUN) -m pytest -q -n 2 --dist loadfile tests

reproduce: env  ## run the stale notebooks into reports/yours, and hold them against ours (SIZE=smoke, laptop, evening, gpu, full)
	$(RUN) -m lib.desk.run $(NOTEBOOKS) --size "$(SIZE)" --setup "$(SETUP)"$(if $(PATIENCE), --patient)
	$(RUN) -m lib.desk.beside --size "$(SIZE)" --setup "$(SETUP)"

smoke:  ## reproduce at the smallest size
	$(MAKE) reproduce SIZE=smoke

publish: env  ## for maintainers: your run of a size becomes the committed one, and README is renewed from the largest
	$(RUN) -m lib.desk.publish --size "$(SIZE)"

sturdy: env  ## smoke with either precision, one and two threads, three other seeds
	$(RUN) tests/sturdy.py

torture: env  ## smoke killed twenty times, fifty bits flipped: the end must be the same, all damage noticed
	$(RUN) tests/torture.py

notebook: env  ## JupyterLab on notebooks/
	$(LAB) notebooks/

report: env  ## a site of the executed notebooks, reports/yours/SIZE/site/index.html
	$(RUN) -m lib.desk.site --size "$(SIZE)"

browser: env  ## in headless Chromium: labelling by keyboard and an edited notebook 04 in JupyterLab, and the site's pages
	$(RUN) -m pytest -q -rs tests/browser_labelling.py
	$(RUN) tests/browser.py

labelstudio: env  ## tasks into a real Label Studio, installed apart, and annotations back (needs PyPI and Chromium)
	$(RUN) tests/labelstudio.py

campaign: env  ## merge, import or export labels of people (DO="merge all.sqlite ann.sqlite"; alone: what there is)
	$(RUN) -m lib.desk.campaign $(DO)

export: env  ## a trained model into a folder (MODEL=name TO=folder; without them: what there is)
	$(RUN) -m lib.desk.export $(if $(MODEL),"$(MODEL)") $(if $(TO),"$(TO)") --size "$(SIZE)"

pack: env  ## the study and the wheels that a GPU machine without network lacks, as one archive (TO=file)
	$(RUN) -m lib.desk.pack $(if $(TO),"$(TO)")

bench: env  ## speed of this machine at the study's work (SETUP=lee-sd15: at that size, beside diffusers' own loops)
	$(if $(filter mini,$(SETUP)),$(RUN) -m lib.desk.bench)
	$(RUN) -m lib.desk.stock --setup "$(SETUP)"

pretrain: env  ## train the shipped models again (BUDGET=minutes)
	$(RUN) -m pretrain $(if $(BUDGET),--minutes "$(BUDGET)")

stale: env  ## name the notebooks that reproduce would run
	$(RUN) -m lib.desk.run --check $(NOTEBOOKS) --size "$(SIZE)" --setup "$(SETUP)"

lint: env  ## ruff; .venv/bin/python -m ruff check --fix . mends what it can
	$(RUN) -m ruff check .

strip: env  ## remove the outputs of notebooks that were run in place
	@$(RUN) -m nbconvert --clear-output --inplace --log-level ERROR $(NOTEBOOKS)

clean:  ## drop cached stages, executed notebooks and smoke results (keeps .venv, results, training checkpoints)
	mkdir -p .cache && find .cache -mindepth 1 -maxdepth 1 ! -name pretrain -exec rm -rf {} +
	rm -rf reports/yours/smoke reports/yours/*/notebooks reports/yours/*/site .pytest_cache .ruff_cache
