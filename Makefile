# Everything a person or CI runs. `make help` lists it.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
# pip may know a folder of wheels (a small CPU build of torch, say); uv has to be told. The environment's own pip is
# asked, once it is there: a system's Python often has none.
FIND_LINKS := UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(PY) -m pip config get global.find-links 2>/dev/null)}}"
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
	nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 \
	nvidia-nvtx triton

# Test files are dealt out to processes (tests/conftest.py says how many), each with servers of its own: a gigabyte of
# memory each. They are dealt in the order given: xdist would put files with few tests last, and those are the slowest.
DEALT := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(PY) -m pytest $(DEALT)

# Images of containers set it; without bytecode every process compiles what it imports, torch twice as long as it loads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo down check test-unit test-avx2 test coverage docs lock bench clean
help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Virtual environment with the locked dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1): make $(MAKECMDGOALS) PYTHON=python3.13"; \
		exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(FIND_LINKS) $(UV) pip install --quiet --python $(PY) -r requirements.lock
	$(UV) pip install --quiet --python $(PY) --no-deps -e .
	@touch $@

demo: setup ## The whole story on this machine: DATA=folder-or-tar for your images, STACK=compose for containers
	$(VENV)/bin/evergreen demo $(if $(DATA),--data "$(DATA)") $(if $(STACK),--stack $(STACK))

down: ## Stop the stack; data stays (STACK=compose for containers)
	$(if $(filter compose,$(STACK)),$(PY) -m infra.compose down,$(VENV)/bin/evergreen down)

check: setup ## Style, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry ml serving infra dags plugins

test-unit: setup ## The fast tests: no servers
	$(PYTEST) tests/unit

test-avx2: setup ## The fast tests that compute, as on a processor with AVX2 only; the story so is among the slow ones
	$(PY) -m tests.avx2 $(DEALT)

test: setup ## All tests, against real servers, and the branch coverage of the fast ones; these again with AVX2 only
	$(PYTEST) --durations=20 --durations-min=5 --cov --cov-branch --fast-cov tests/e2e tests/integration tests/unit
	$(MAKE) --no-print-directory test-avx2

coverage: setup ## Branch coverage of all tests; it takes a third longer than `test`
	$(PYTEST) --cov --cov-branch tests/e2e tests/integration tests/unit

bench: setup ## NAME=… runs a benchmark; without NAME, lists them
	$(PY) -m tests.bench $(NAME)

docs: setup ## Write the reference pages anew: docs/settings.md, docs/cli.md, docs/rest.md
	$(PY) -m infra.reference

# The CUDA packages are left out: the registry's torch pins them itself, the CPU build has none.
lock: ## Pin dependencies anew
	env -u UV_FIND_LINKS $(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --no-header \
		--no-emit-index-url --no-emit-find-links $(CUDA:%=--no-emit-package %) -o requirements.lock pyproject.toml
	sed -i '/^# /d' requirements.lock
	env -u UV_FIND_LINKS $(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate --constraint requirements.lock \
		--no-emit-index-url --no-emit-find-links -o infra/docker/service.lock pyproject.toml
	env -u UV_FIND_LINKS $(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate --constraint requirements.lock \
		--no-emit-index-url --no-emit-find-links --extra pipeline --extra airflow $(CUDA:%=--no-emit-package %) \
		-o infra/docker/pipeline.lock pyproject.toml
	sed -i '/^# /d' infra/docker/*.lock

clean: ## Remove the virtual environment and build output (not the stack's data)
	rm -rf $(VENV) build .coverage .coverage.*
