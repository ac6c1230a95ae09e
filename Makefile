# The commands of a checkout. `make` alone lists those with a `##` comment. Each sets up what it needs by itself:
# a machine needs Python 3.11 or newer (with venv), git and make. `make PYTHON=/path/to/python …` picks the Python.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
CODE := $(wildcard saga tasks demo_shop tests benchmarks docs)
# A broker that the environment names is emptied by each test, so only one test at a time may have it.
TEST_PROCESSES := $(if $(CELERY_BROKER_URL),1,3)
# Options for the command behind a target, such as `make test ARGS="tests/unit -x"`.
ARGS ?=

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(INSTALLED) ## 200 real orders under chaos: services, coordinators, workers, 8 kills, then the verdict
	@mkdir -p .saga
	@$(RUN) -m demo_shop run --orders 200 --kills 8 --seed 7 --json .saga/demo.json $(ARGS)

.PHONY: test
test: $(INSTALLED) ## all tests; Postgres and Valkey are started for them and stopped after (ARGS="tests/unit -x")
	@$(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## this engine against Celery's chain, side by side
	@$(RUN) -m benchmarks $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## ruff's rules and format, and who may import whom
	@$(RUN) -m ruff check $(CODE)
	@$(RUN) -m ruff format --check $(CODE)
	@$(VENV)/bin/lint-imports --no-logo --config setup.cfg

.PHONY: types
types: $(INSTALLED) ## mypy --strict on everything
	@$(RUN) -m mypy --strict $(CODE)

.PHONY: format
format: $(INSTALLED) ## let ruff mend and format the code
	@$(RUN) -m ruff check --fix $(CODE)
	@$(RUN) -m ruff format $(CODE)

.PHONY: check
check: lint types test ## lint, types and test

.PHONY: dev
dev: $(INSTALLED) ## Postgres, Valkey, a coordinator, a worker and Flower for the tasks in tasks/, until Ctrl-C
	@$(RUN) -m celery -A tasks saga dev $(ARGS)

.PHONY: docs
docs: $(INSTALLED) ## write what is generated in docs/: lifecycle, tested faults, what doctor refuses
	@$(RUN) -m docs.generate
	@$(RUN) -m saga.cli.doctor.page > docs/doctor.md

.PHONY: wheel
wheel: $(INSTALLED) ## build the wheel into dist/
	@$(RUN) -m build --wheel --no-isolation $(ARGS)

.PHONY: setup
setup: $(INSTALLED) ## create .venv and install into it; every command does this by itself

.PHONY: clean
clean: ## remove all that these commands made: .venv, .saga, dist, caches
	rm -rf $(VENV) .saga build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment is made again when the metadata changes, and from nothing when its Python is gone.
$(INSTALLED): setup.cfg pyproject.toml
	@set -e; \
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  found=''; old=''; bare=''; \
	  for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    "$$candidate" -c '' >/dev/null 2>&1 || continue; \
	    if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$candidate"; continue; fi; \
	    if ! "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then bare="$$bare $$candidate"; continue; fi; \
	    found="$$candidate"; break; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 or newer with the venv module was found." >&2; \
	    [ -z "$$old" ] || echo "  too old:$$old" >&2; \
	    [ -z "$$bare" ] || echo "  without venv or ensurepip:$$bare  (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11 …" >&2; \
	    exit 1; \
	  fi; \
	  echo "setting up $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi; \
	echo "installing into $(VENV)"; \
	$(RUN) -m pip install -qq --disable-pip-version-check --editable '.[dev]'; \
	touch $@
