# vitalstream: `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then command -v $$p; break; fi; done)
WEB := app/web
WEB_SOURCES := $(shell find $(WEB)/src $(WEB)/public $(WEB)/index.html $(WEB)/*.ts $(WEB)/*.json -type f 2>/dev/null)
# Node 20 or newer where there is one, else the one that PyPI carries.
NODE_PATH_SET = PATH="$$(deploy/node.sh $(VENV)):$$PATH"

.PHONY: help install run test lint format system kafka kafka-start nvcc web lock clean figures

help: ## Say what there is
	@echo 'vitalstream: real-time ICU vital-signs inference. Research software, not a medical device.'
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14
	@echo
	@echo "Options go through ARGS:  make run ARGS='--beds 4 --port 8123'   make test ARGS='-k windows'"

run: install ## Set everything up and start the whole product on http://127.0.0.1:8000
	@exec $(BIN)/vitalstream run $(ARGS)

install: $(VENV)/.installed $(WEB)/dist/index.html ## Set up .venv with .venv/bin/vitalstream, serving engine and page built
	@$(BIN)/python models/native/build.py

test: system install $(VENV)/.installed-dev deploy/kafka/target/.resolved $(WEB)/node_modules/.installed nvcc ## Set everything up and run all tests
	@$(NODE_PATH_SET); cd $(WEB) && npm test --silent
	@$(BIN)/python -m pytest $(ARGS)

lint: install $(VENV)/.installed-dev ## Check style and types (ruff, mypy)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.installed-dev ## Put the code into its form
	@$(BIN)/ruff check --fix-only . ; $(BIN)/ruff format .

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo 'Python 3.11, 3.12 or 3.13 is needed, and was not found; PYTHON=… names one'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo 'the venv module is missing (Debian: apt-get install python3-venv)'; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/uv
	@echo 'installing the locked dependencies (PyTorch is large: the first time takes a minute or more)'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

$(WEB)/node_modules/.installed: $(WEB)/package.json $(WEB)/package-lock.json | $(BIN)/uv
	@$(NODE_PATH_SET); cd $(WEB) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.installed $(WEB_SOURCES)
	@$(NODE_PATH_SET); cd $(WEB) && npm run build --silent
	@touch $@

web: $(WEB)/dist/index.html ## Build the page

system: ## Install the system packages that the tests need (as root or by sudo; else says what is missing)
	@deploy/system.sh

deploy/kafka/target/.resolved: deploy/kafka/pom.xml
	@if command -v mvn >/dev/null; then cd deploy/kafka && mvn -q -B dependency:copy-dependencies -DoutputDirectory=target/dependency && touch target/.resolved; \
	else echo 'Maven is missing: tests on a real Kafka will be skipped'; fi

nvcc: | $(BIN)/uv
	@$(MAKE) -s -C cuda toolchain PIP='$(abspath $(BIN)/uv) pip' || echo 'nvcc cannot be fetched: what the compiler says of the kernels is not checked'

kafka: deploy/kafka/target/.resolved ## Fetch Apache Kafka's jars (Maven, Java 17)

lock: | $(BIN)/uv ## Renew requirements.lock and requirements-dev.lock from pyproject.toml
	@$(BIN)/uv pip compile -q --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## Remove what was installed and built here
	@rm -rf $(VENV) $(WEB)/node_modules $(WEB)/dist deploy/kafka/target models/native/built build *.egg-info
