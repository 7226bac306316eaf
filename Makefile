# SPDX-License-Identifier: Apache-2.0
# Every target makes the virtual environment it needs: Python 3.11 or later and make are enough.

VENV    := .venv
BIN     := $(VENV)/bin
WORKERS ?= 2
PYTHON  ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11 python,\
             $(if $(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print(1)' \
             2>/dev/null),$(python))))

# The repository root is the package `burnish`: it must never be on sys.path itself.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INSTALL := $(BIN)/python -m pip install -qq --no-build-isolation --constraint constraints.txt
# As many threads as workers, and no more: torch and OpenMP would start one per core each.
export OMP_NUM_THREADS ?= 1
PYTEST  := python -m pytest -q --numprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-source test-wheel test-all wheel lint format bench bench-fusion bench-quant bench-prune docs lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.run ## optimize a real model and print before and after
	@$(BIN)/python -m burnish.tools.demo build/demo

test: test-source test-wheel ## the tests, from source and then from the built wheel

test-source: $(VENV)/.dev ## the tests, from source
	@echo "== from source"
	@$(BIN)/$(PYTEST) $(ARGS)

# The wheel's environment borrows the dependencies of the first one by a .pth file; the editable
# install there hangs on a .pth file too, and those are not followed from there.
test-wheel: wheel ## the tests, from the built wheel
	@echo "== from the built wheel"
	@rm -rf build/venv
	@$(BIN)/python -m venv --without-pip build/venv
	@$(BIN)/python -m pip --python build/venv/bin/python install -qq --no-deps dist/*.whl
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	  $(BIN)/python -c "$$site" > "$$(build/venv/bin/python -c "$$site")/dependencies.pth"
	@BURNISH_TESTED=wheel build/venv/bin/$(PYTEST) $(ARGS)

test-all: $(VENV)/.dev ## the tests with the slow ones, from source
	@$(BIN)/$(PYTEST) --slow $(ARGS)

wheel: $(VENV)/.dev ## dist/: the source archive, and the wheel built from it
	@rm -rf dist
	@$(BIN)/python -m build --quiet --no-isolation --outdir dist

lint: $(VENV)/.dev ## ruff and mypy
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --quiet --check --diff
	@$(BIN)/mypy

format: $(VENV)/.dev ## sort the imports and lay out the code
	@$(BIN)/ruff check --quiet --fix --select I
	@$(BIN)/ruff format --quiet

bench: $(VENV)/.dev ## speed and memory beside the peers, into docs/benchmarks.md
	@$(BIN)/python -m burnish.tools.benchmark $(ARGS)

bench-fusion: $(VENV)/.dev ## nodes and float32 speed of fuse beside the peers
	@$(BIN)/python -m burnish.tools.benchmark fusion

bench-quant: $(VENV)/.dev ## quantization beside ONNX Runtime's own, into docs/benchmarks.md
	@$(BIN)/python -m burnish.tools.bench_quant $(ARGS)

bench-prune: $(VENV)/.dev ## pruned models: speed and accuracy, into docs/benchmarks.md
	@$(BIN)/python -m burnish.tools.bench_prune $(ARGS)

docs: $(VENV)/.dev ## write docs/passes.md from the code
	@$(BIN)/python -m burnish.tools.reference docs/passes.md

lock: ## write constraints.txt anew, from the ranges in pyproject.toml
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install -qq --upgrade pip setuptools
	@build/lock/bin/python -m pip install -qq --no-build-isolation \
	  '.[bench,onnxscript,tensorrt-rtx,torch,zoo-export]' --group dev
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	  build/lock/bin/python -m pip freeze --all --exclude burnish | sed 's/+cpu$$//'; \
	} > build/constraints.txt && mv build/constraints.txt constraints.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .*_cache .hypothesis

# The environment in three steps, each redone when what it installs may have changed.
$(VENV)/.base: constraints.txt
	@test -n "$(PYTHON)" || { echo "burnish needs Python 3.11 or later on the PATH" >&2; exit 1; }
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --constraint constraints.txt pip setuptools
	@touch $@

$(VENV)/.run: $(VENV)/.base pyproject.toml
	@echo "== installing burnish"
	@$(INSTALL) --editable '.[zoo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "== installing what the tests need"
	@$(INSTALL) --editable '.[bench,onnxscript,tensorrt-rtx,torch,zoo-export]' --group dev
	@touch $@
