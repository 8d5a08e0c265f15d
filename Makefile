# Each target creates the environment first, if it does not exist: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-processes test-torchao install-browser test-browser coverage test-slow test-compat test-newest test-vision test-script lint format clean help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# torch comes first and pinned: an unpinned one may bring gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot]'
	touch $(STAMP)

demo: $(STAMP) ## prune the sample model, print the table
	$(BIN)/hf-vbp prune sample --data sample --eval-data sample --ratio 0.5 --output demo --overwrite

test: $(STAMP) lint ## lint, types and the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not compat and not processes and not browser" --durations=40

test-processes: $(STAMP) ## tests that start processes of their own or take long: kills, launchers, fuzzing, benchmarks, the documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "processes and not slow" --durations=10

# Programs that the browser tests need and that pip does not install.
MISSING = $(strip $(shell command -v chromium >/dev/null || command -v google-chrome >/dev/null || echo chromium) \
	$(shell command -v npm >/dev/null || echo npm))

install-browser: ## Chromium and npm for the browser tests, with apt-get where they are missing
	@missing="$(MISSING)"; if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
		else echo "The browser tests need $$missing: install it with the packages of the system."; exit 1; fi; fi

test-browser: $(STAMP) install-browser ## the pages of `hf-vbp export --web` and `hf-vbp ui` in a headless Chromium, installed with apt-get if missing
	HF_VBP_BROWSER_TESTS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/export/web tests/ui -m "not slow"

# In a folder of its own: where it is installed, transformers imports it in every command, which takes seconds.
TORCHAO := .venv-torchao

test-torchao: $(STAMP) ## int8 by torchao
	test -d $(TORCHAO)/torchao || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TORCHAO) \
		"torchao==$$(sed -n 's/^torchao==//p' constraints.txt)"
	PYTHONPATH=$(TORCHAO) $(BIN)/python -c "import torchao"
	PYTHONPATH=$(TORCHAO) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/export/test_models.py tests/adapters/test_refused_models.py -k "torchao_quantizes or quantized_linears"

coverage: $(STAMP) ## both with line and branch coverage, child processes included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not compat" --cov

test-slow: $(STAMP) ## tests that take too long for the suite
	$(BIN)/python -m pytest -m slow

lint: $(STAMP) ## formatting, lint, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## format the code and apply the fixes of ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The modeling file of checkpoints must run where hf_vbp does not: one environment for each old transformers.
COMPAT_VERSIONS := 4.57.6 5.2.0
COMPAT_STAMPS := $(foreach version,$(COMPAT_VERSIONS),.venv-compat/$(version)/.installed)

.venv-compat/%/.installed: constraints.txt
	test -x .venv-compat/$*/bin/python || $(PYTHON) -m venv .venv-compat/$*
	.venv-compat/$*/bin/python -m pip install --quiet --disable-pip-version-check \
		"torch==$$(sed -n 's/^torch==//p' constraints.txt)" "transformers==$*" numpy pillow accelerate
	touch $@

test-compat: $(STAMP) $(COMPAT_STAMPS) ## reload pruned checkpoints under old versions of transformers
	HF_VBP_COMPAT_PYTHONS="$(subst $() ,:,$(foreach version,$(COMPAT_VERSIONS),$(CURDIR)/.venv-compat/$(version)/bin/python))" \
		$(BIN)/python -m pytest -m compat

# The newest transformers is installed on its own, so that a version above the bound in pyproject.toml is tested too.
NEWEST := .venv-newest/bin/python

test-newest: ## reload pruned checkpoints under the newest transformers of the index
	test -x $(NEWEST) || $(PYTHON) -m venv .venv-newest
	$(NEWEST) -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(NEWEST) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(NEWEST) -m pip install --quiet --disable-pip-version-check --upgrade transformers
	$(NEWEST) -c "import transformers; print('transformers', transformers.__version__)"
	OMP_NUM_THREADS=1 $(NEWEST) -m pytest tests/checkpoint tests/modeling -m "not slow and not compat"

# The processors of DINOv3, SAM2 and of videos, and timm, need torchvision, which fits one torch each.
VISION := .venv-vision/bin/python
VISION_PAIR ?= torch==2.14.1 torchvision==0.29.1

test-vision: ## processors that need torchvision, and the models of timm, in an environment of its own
	test -x $(VISION) || $(PYTHON) -m venv .venv-vision
	$(VISION) -m pip install --quiet --disable-pip-version-check $(VISION_PAIR)
	grep -v '^torch==' constraints.txt > .venv-vision/constraints.txt
	$(VISION) -m pip install --quiet --disable-pip-version-check -c .venv-vision/constraints.txt -e '.[dev]' timm
	OMP_NUM_THREADS=1 $(VISION) -m pytest tests/families/test_processors.py tests/families/test_refusals.py \
		tests/families/test_contract_reload.py::test_every_checkpoint_loads_by_import_and_by_remote_code
	OMP_NUM_THREADS=1 $(VISION) -m pytest tests/families/test_contract.py tests/families/test_contract_refit.py -k Timm

# The script that Jobs run brings its environment itself: the packages of its header, and hf_vbp as a wheel.
ALONE := .venv-script/bin/python

test-script: $(STAMP) ## scripts/prune.py in an environment of its own, with the packages of its header and a wheel
	test -x $(ALONE) || $(PYTHON) -m venv .venv-script
	$(BIN)/python -m tests.script_header > .venv-script/requirements.txt
	$(ALONE) -m pip install --quiet --disable-pip-version-check -r .venv-script/requirements.txt
	HF_VBP_SCRIPT_PYTHON="$(CURDIR)/$(ALONE)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m script

clean: ## remove generated files and environments
	rm -rf $(VENV) .venv-compat .venv-newest .venv-vision .venv-script demo build dist .pytest_cache .mypy_cache .ruff_cache
