# The one door to everything. `make` alone lists what there is.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help run test check keras test-compose chaos simulate demo bench protos format requirements up down clean

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 18

run: $(VENV)/.run ## Starts the whole system on this machine; Ctrl-C stops it.
	@$(BIN)/disco-server $(if $(wildcard .env),--env-file .env) $(ARGS)

test: check ## Checks, then every test.
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.test ## Style, types, imports, generated code.
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy && $(BIN)/mypy -p examples -p bench
	$(BIN)/lint-imports && $(BIN)/python protos/generate.py --check

test-compose: $(VENV)/.test ## The tests that need a Docker engine: builds the image, starts and breaks the composed system.
	DISCO_TEST_COMPOSE=1 $(BIN)/python -m pytest tests/e2e/test_compose.py $(ARGS)

keras: $(VENV)-keras/.keras ## Installs Keras 2, Keras 3 and TensorFlow (1.6 GB) beside the project, for the tests that compare with them.

chaos: $(VENV)/.test ## Kills every process at random under load and checks every promise; KILLS=200, SEED=1.
	DISCO_TEST_KILLS=$(or $(KILLS),50) DISCO_TEST_SEED=$(SEED) $(BIN)/python -m pytest tests/e2e/test_chaos.py -s $(ARGS)

simulate: $(VENV)/.test ## Ten thousand simulated schedules of faults against the aggregator; SEED=… again, STORE=redis.
	@$(BIN)/python -m tests.simulation --schedules $(or $(SCHEDULES),10000) --store $(or $(STORE),memory) $(if $(SEED),--seed $(SEED)) $(ARGS)

demo: $(VENV)/.demo ## Trains a digit classifier over gRPC with three participants and shows the accuracy rise.
	@$(BIN)/python -m examples.digits_demo $(ARGS)

bench: $(VENV)/.run ## Loads a system of its own with raw clients and says what it did.
	@$(BIN)/python -m bench $(ARGS)

protos: $(VENV)/.test ## Generates gen/ from protos/.
	$(BIN)/python protos/generate.py

format: $(VENV)/.test ## Formats the code and mends what can be mended.
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

requirements: $(VENV)/.test ## Pins the dependencies of pyproject.toml anew in requirements*.txt.
	$(PIP) install --quiet 'uv<1'
	$(COMPILE) pyproject.toml --extra convert -o requirements.txt && $(COMPILE) --group build -o requirements-build.txt
	$(COMPILE) pyproject.toml --extra convert --extra demo --extra privacy --extra s3 --extra test -c requirements.txt -o requirements-test.txt

up: ## Starts the system in containers, gateway last; ARGS='--scale aggregator=3' for more.
	$(COMPOSE) up --build --detach $(ARGS)

down: ## Stops the containers; what was trained stays in their volumes.
	$(COMPOSE) down

clean: ## Removes the virtual environment and every cache; data/ stays.
	rm -rf $(VENV) $(VENV)-keras .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/create-venv $(VENV) $(PYTHON)

$(VENV)/.run: requirements.txt requirements-build.txt pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -r requirements.txt -r requirements-build.txt
	$(PIP) install --quiet --no-build-isolation --no-deps -e . && touch $@

$(VENV)/.demo: requirements-test.txt $(VENV)/.run
	$(PIP) install --quiet -c requirements-test.txt scikit-learn && touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.run
	$(PIP) install --quiet -r requirements-test.txt && touch $@ $(VENV)/.demo

# No dependencies of dependencies: tf-keras asks for a TensorFlow that is not tensorflow-cpu.
$(VENV)-keras/.keras: requirements-keras.txt
	@scripts/create-venv $(VENV)-keras $(PYTHON)
	$(VENV)-keras/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $< && touch $@
