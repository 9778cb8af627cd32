# Every target does its own set-up: it needs make and Python 3.10 to 3.13 with venv, nothing else.
PYTHON ?= python3
VENV := .venv
PARITY := .venv-parity
PIP_FLAGS := --quiet --no-input --disable-pip-version-check

.PHONY: help demo test slow browser parity bench drill soak fuzz lint docs clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## Pretrain, reconstruct, compare and fine-tune on the embedded digits
	$(VENV)/bin/paddlemae demo --overwrite

# The tests start a hundred processes, which would all compile the package where Python is kept from storing bytecode.
test slow parity: export PYTHONDONTWRITEBYTECODE :=

PARALLEL := -n auto --maxprocesses 4 --dist loadfile

test: $(VENV)/installed ## Run the tests (no PyTorch)
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not parity and not browser"

slow: $(VENV)/installed ## Run the tests that take minutes: several processes, killed and resumed (10 minutes)
	$(VENV)/bin/python -m pytest -m slow

browser: $(VENV)/installed ## Open the report and the site in headless Chromium (the system's)
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo "no Chromium found: apt-get install chromium" >&2; exit 1; }
	$(VENV)/bin/python -m pytest $(PARALLEL) -m browser

parity: $(PARITY)/installed ## Compare with PyTorch (installs it: 2 GB on disk)
	$(PARITY)/bin/python -c "import torch, transformers" # without them pytest would skip, and pass
	$(PARITY)/bin/python -m pytest $(PARALLEL) -m parity

bench: $(PARITY)/installed ## Measure speed and memory, compared with PyTorch (about an hour; QUICK=1: 15 minutes)
	$(PARITY)/bin/python -m benchmarks.run $(if $(QUICK),--quick) $(BENCH)

drill: $(VENV)/installed ## Kill, stop and starve trainings, and check that nothing is lost (half an hour; DRILL="--kills 6 --faults 3")
	$(VENV)/bin/python -m drill.run $(DRILL)

soak: $(VENV)/installed ## Pretrain for 2 hours and check that memory and speed are stable (DATA=FOLDER of images; HOURS=2)
	$(VENV)/bin/python -m drill.soak --data $(DATA) --hours $(or $(HOURS),2) $(SOAK)

fuzz: $(VENV)/installed ## Open 20,000 hostile weights files, and 20,000 cases of each property test (FUZZ=... CASES="--cases 20000 --seed 0")
	$(VENV)/bin/python -m tests.fuzz.weights $(FUZZ)
	$(VENV)/bin/python -m tests.fuzz.properties $(CASES)

lint: $(VENV)/installed ## Check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Every warning is an error: broken links and anchors, pages that the contents lack. A fresh build each time, since Sphinx
# repeats no warning. Links to other sites are not followed: that needs a network.
docs: $(VENV)/installed ## Build the pages into a site that needs no network: site/index.html
	@rm -rf site
	$(VENV)/bin/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going --fresh-env -d build/docs docs site
	$(VENV)/bin/python scripts/check_site.py site

clean: ## Remove the environments and caches; runs stay
	rm -rf $(VENV) $(PARITY) .pytest_cache .mypy_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: EXTRAS := cpu,dev,docs
$(PARITY)/installed: EXTRAS := cpu,dev,parity

# The stamp is touched last, so an installation that broke off is taken up again.
%/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "PaddlePaddle has builds for Python 3.10 to 3.13, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	@echo "installing PaddleMAE with [$(EXTRAS)] into $* (a few hundred MB of packages, once)"
	@$(PYTHON) -m venv $*
	@$*/bin/python -m pip install $(PIP_FLAGS) -e '.[$(EXTRAS)]'
	@touch $@
