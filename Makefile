# PriMIA Kit. `make quickstart` is the start; `make help` lists the rest.
PYTHON ?= python3.11
BIN := .venv/bin
RUNS ?= runs
PYTEST ?=

# A class without a network unpacks `make wheelhouse`'s archive: then only its wheels are used.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(wildcard wheelhouse/*.whl),--no-index --find-links wheelhouse) -c constraints.txt

.PHONY: help quickstart test test-slow lint lab warm figures wheelhouse constraints clean

help:
	@echo "make quickstart   install into .venv, run the first notebook, print its results (first time: some minutes)"
	@echo "make lab          open JupyterLab on the notebooks"
	@echo "make test         run the tests (make test-slow: the long ones; make lint: style alone)"
	@echo "make warm         compile the loops of encrypted inference ahead of its first use"
	@echo "make figures      draw the README's picture again"
	@echo "make wheelhouse   pack the kit and all its packages into primia-kit-class.tar, for laptops without a network"
	@echo "make constraints  resolve the pinned set again, from the newest versions that fit PINS"
	@echo "make clean        remove .venv (runs/ and the cache of synthetic films stay)"

quickstart: .venv/.installed
	$(BIN)/primia run notebooks/00_quickstart.ipynb --html --runs $(RUNS)

lab: .venv/.installed
	$(BIN)/jupyter lab notebooks

test: .venv/.installed-test lint
	$(BIN)/python -m pytest -m "not slow" $(PYTEST)

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow $(PYTEST)

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

warm: .venv/.installed
	$(BIN)/python -m primia_kit.inference.warm

figures: .venv/.installed
	$(BIN)/python -m primia_kit.figures docs

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "PriMIA Kit needs Python 3.11 with venv: install it, or name it with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is incomplete; on Debian: apt install python3.11-venv"; exit 1; }

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing the pinned packages into .venv (about 2 GB; a minute or more)"
	$(INSTALL) -e .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(INSTALL) -e '.[test]'
	@touch $@

# The archive is for machines of the same kind (system, processor, Python) as the one that packs it.
wheelhouse: .venv/bin/python
	rm -rf wheelhouse
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check -c constraints.txt --wheel-dir wheelhouse '.[test]' 'setuptools>=77'
	rm -f wheelhouse/primia_kit-*.whl
	rm -f primia-kit-class.tar && touch primia-kit-class.tar
	tar --create --file=primia-kit-class.tar --transform='flags=r;s,^\.,primia-kit,' --exclude=./primia-kit-class.tar \
		--exclude=./.git --exclude=./.venv --exclude=./runs --exclude=__pycache__ --exclude='*.egg-info' --exclude='./.*_cache' .
	@echo "primia-kit-class.tar: on each laptop, tar xf primia-kit-class.tar && cd primia-kit && make quickstart"

PINS := torch==2.13.0 jupyterlab==4.6.6 ipywidgets==8.1.9 papermill==2.7.0 pydicom==3.0.2 matplotlib==3.11.2 numpy==2.4.6 syft==0.10.0 syft-rds==0.6.1 opacus==1.6.0 dp-accounting==0.6.0
constraints:
	rm -rf .venv-resolve
	$(PYTHON) -m venv .venv-resolve
	.venv-resolve/bin/python -m pip install --quiet $(PINS) -e '.[test]'
	.venv-resolve/bin/python -m pip freeze --exclude-editable | sed 's,+cpu$$,,' | sort -f > constraints.txt
	rm -rf .venv-resolve

clean:
	rm -rf .venv
