# Every target sets up what it needs: by default a virtual environment in .venv, once.
#
#   make test                        in .venv, made with python3
#   make test PYTHON=python3.12      in .venv, made with another Python
#   make test VENV= PYTHON=python    in an existing environment, as it is: nothing gets installed
#   make install VENV= PYTHON=python installs everything into an existing environment

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# The builds to install; test-oldest takes the oldest pair that pyproject.toml promises.
TORCH ?= torch torchvision
OLDEST_TORCH = $(shell sed -n 's/^ *"\(torch[a-z]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml)
# Tests run in so many processes at a time, with one thread each.
WORKERS ?= 2
PYTEST_FLAGS ?=
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest tests --numprocesses=$(WORKERS) --dist=worksteal

ifeq ($(strip $(VENV)),)
RUN := $(PYTHON)
READY := check-python
else
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed
endif

# Of pip's many lines: every file of a megabyte or more, every build, and the results.
SHOW_PROGRESS = | { grep --line-buffered -E '^( *Downloading .*[0-9] [MG]B\)| *Building|Installing|Successfully)' || true; }

define INSTALL
	@echo "== torch and torchvision (several gigabytes with CUDA)"
	@set -o pipefail; $(RUN) -m pip install --disable-pip-version-check $(TORCH) $(SHOW_PROGRESS)
	@echo "== Detectron2"
	@$(RUN) tools/install_detectron2.py
	@echo "== mvit_det and what its development needs"
	@set -o pipefail; $(RUN) -m pip install --disable-pip-version-check -e ".[dev]" $(SHOW_PROGRESS)
	@echo "== Gradio and trackers, for their tests"
	@set -o pipefail; $(RUN) -m pip install --disable-pip-version-check gradio==6.31.0 $(SHOW_PROGRESS)
	@# Gradio requires Pillow before 13, and works with later ones, which read more TIFF files. The
	@# dependencies of trackers include an OpenCV that replaces the headless one.
	@set -o pipefail; $(RUN) -m pip install --disable-pip-version-check --no-deps --upgrade pillow trackers==2.6.1 $(SHOW_PROGRESS)
	@echo "== Result"
	@$(RUN) tools/check_install.py
endef

.PHONY: help
help: ## List the targets (the default)
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'
	@echo
	@echo "All of them work in .venv, which they make if need be. To use an existing environment as it is:"
	@echo "  make test VENV= PYTHON=python"

.PHONY: demo
demo: $(READY) ## Train, evaluate and draw a small model on generated images, in minutes on a CPU
	@$(RUN) tools/lazyconfig_train_net.py --config-file configs/shapes/mask_rcnn_mvitv2_pico.py \
		train.output_dir=./output/demo

.PHONY: test
test: $(READY) ## Run the tests but slow ones (DETECTRON2_DATASETS: folder with coco/, for real images)
	@$(PYTEST) -m "not slow and not gpu" $(PYTEST_FLAGS)

.PHONY: test-all
test-all: $(READY) ## Run all tests that need no GPU, with pages, installers and long trainings
	@$(PYTEST) -m "not gpu" $(PYTEST_FLAGS)

.PHONY: test-oldest
test-oldest: ## Run the tests with the oldest supported torch, in .venv-oldest (PYTHON: 3.10 to 3.13)
	@$(MAKE) --no-print-directory test VENV=.venv-oldest TORCH="$(OLDEST_TORCH)"

.PHONY: soak
soak: $(READY) ## Train for 2,000 steps and check that memory and open files do not grow, in minutes
	@$(RUN) -m pytest -s tests/soak.py $(PYTEST_FLAGS)

.PHONY: lint
lint: $(READY) ## Check style, formatting and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) .ci/words.py
	@$(RUN) -m mypy mvit_det tools

.PHONY: bench
bench: $(READY) ## Measure speed and memory against Detectron2's MViT on the CPU, in minutes
	@$(RUN) tools/benchmark.py

.PHONY: gpu
gpu: $(READY) ## Run the tests and measurements for NVIDIA GPUs, in ten minutes; skips without one
	@$(RUN) tools/benchmark.py --gpu --output output/gpu

.PHONY: clean
clean: ## Remove caches and build products; keeps .venv, data and output
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find mvit_det tools tests configs -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: install
ifeq ($(strip $(VENV)),)
install: $(READY)
	$(INSTALL)
else
install: $(READY) ## Install everything, into .venv or, with VENV= PYTHON=…, into an existing environment

# A file that is written last, so that an interrupted installation is taken up again.
$(READY): setup.py pyproject.toml mvit_det/cli/install_detectron2.py | check-python
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "== $(VENV)" && $(PYTHON) -m venv "$(VENV)"; }
	$(INSTALL)
	@touch "$@"
endif

.PHONY: check-python
check-python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no '$(PYTHON)' here: install Python 3.10 or newer, or name yours with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$("$(PYTHON)" --version) is too old: mvit_det needs 3.10 or newer; name one with PYTHON=…" >&2; exit 1; }
ifneq ($(strip $(VENV)),)
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: install its venv module (on Debian and Ubuntu the" \
			"package python3-venv), or use an existing environment with VENV= PYTHON=…" >&2; exit 1; }
endif
