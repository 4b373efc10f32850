# make serve   start a server on the embedded model      make test    run all tests
# make bench   load it and print a table                 make lint    ruff and mypy
# make chaos   break a server in every way we know       make clean   remove what these made
# make soak    half an hour at twice its capacity        make fuzz-http   every route, whatever is sent to it
# make timing  whether one key can tell by the time what another has sent
# make conformance   thousands of requests from OpenAI's schema
# make fuzz    random texts over every family of dialects
# make resident   how much memory a mixture takes from files of four bits
# make tool-calls   a hundred random tools, called by real models

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  ?= smollm2-135m-instruct
PORT   ?= 30000
NATIVE := $(wildcard radixmill/device/kernels/cpu/csrc/*) CMakeLists.txt pyproject.toml

.PHONY: serve test lint fast bench chaos soak timing conformance fuzz fuzz-http tool-calls resident clean install

serve: $(VENV)/.installed
	@$(BIN)/radixmill serve $(MODEL) --port $(PORT)

install: $(VENV)/.installed

# Byte code is made when a module is first used, not for all of every package: 35 MB less. Editable, so that a change of Python code needs no reinstall; a change of C++ code does, and make sees to it.
$(VENV)/.installed: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -q --no-compile -e .
	@touch $@

$(VENV)/.tested: $(NATIVE) constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("RadixMill needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

test: lint
	$(BIN)/python -m pytest

fast: $(VENV)/.tested
	$(BIN)/python -m pytest -m 'not weights and not oracle and not slow'

lint: $(VENV)/.tested
	$(BIN)/ruff check radixmill tests
	$(BIN)/ruff format --check radixmill tests
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -e '.[bench]'
	$(BIN)/radixmill bench $(ARGS)

chaos: $(VENV)/.tested
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.tested
	$(BIN)/python -m tests.chaos.soak --minutes 30 --plot docs/soak.png $(ARGS)

timing: $(VENV)/.tested
	$(BIN)/python -m tests.chaos.timing --pairs 200 $(ARGS)

fuzz-http: $(VENV)/.tested
	$(BIN)/python -m tests.chaos.fuzz --minutes 10 $(ARGS)

conformance: $(VENV)/.tested
	$(BIN)/python -m tests.front.conformance --cases 5000 $(ARGS)

tool-calls: $(VENV)/.tested
	$(BIN)/python -m tests.e2e.tool_calls --families $(ARGS)

resident: $(VENV)/.tested
	$(BIN)/python -m tests.device.resident $(ARGS)

fuzz: $(VENV)/.tested
	$(BIN)/python -m tests.front.fuzz $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
