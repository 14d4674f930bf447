# Penstock, by hand: `make up` runs it, `make test` and `make check` prove it.
# Nothing is installed outside .venv, but for Debian packages that tests need (tools/install_test_packages.sh).

PYTHON ?= python3
SEEDS ?= 4000
MINUTES ?= 15
SATURATED ?= 30
CONCURRENCY ?= 32
DURATION ?= 120
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
SYSTEMD := $(HOME)/.cache/penstock/systemd
VLLM := $(or $(PENSTOCK_VLLM_VENV),$(HOME)/.cache/penstock/vllm)
TEST_VLLM = PENSTOCK_VLLM_VENV=$(VLLM) $(BIN)/python -m pytest tests/contract tests/e2e/test_vllm*.py --timeout 600
LOADTESTS := build/loadtests
NOW := $(shell date +%Y%m%d-%H%M%S)
UV := build/uv
COMPILE := $(UV)/bin/uv pip compile -q --generate-hashes --python-version 3.11 --universal \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock'
INSTALL_FAILED = { echo "error: installing failed; the lines above say why" >&2; \
	echo "hint: pip needs a package index; set PIP_INDEX_URL where yours is not the usual one" >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help setup up download stop status test test-vllm test-systemd test-alerts test-simulation soak soak-saturation bench-gateway monitoring loadtest benchmark check fmt lock clean python

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME)  ## install Penstock into .venv

up: $(RUNTIME)  ## start the engines and the gateway; Ctrl-C stops them
	@exec $(BIN)/penstock up

download: $(RUNTIME)  ## download a model from the Hub, or what is configured; MODEL=owner/model
	@$(BIN)/penstock pull $(MODEL)

stop: $(RUNTIME)  ## stop what `make up` started
	@$(BIN)/penstock stop

status: $(RUNTIME)  ## show what runs
	@$(BIN)/penstock status

test: $(DEV)  ## run all tests
	@tools/install_test_packages.sh
	$(BIN)/python -m pytest -n 3 --dist loadscope

test-vllm: $(DEV)  ## run the tests on a real vLLM, which is installed outside this folder, once
	@tools/install_vllm.sh $(VLLM) $(PYTHON)
	$(TEST_VLLM) || { echo "real engines on few cores can be late: what failed is tried once more" >&2; $(TEST_VLLM) --last-failed; }

test-systemd: $(DEV)  ## run the tests under a real systemd, in a container made outside this folder, once; needs root
	@tools/install_systemd_image.sh $(SYSTEMD)
	PENSTOCK_TEST_CONTAINERS=1 PENSTOCK_TEST_SYSTEMD=$(SYSTEMD) \
		$(BIN)/python -m pytest tests/e2e/test_systemd.py --timeout 900

test-alerts: $(DEV)  ## break a stack in many ways, and see a real Prometheus and Alertmanager tell of each
	@tools/install_test_packages.sh
	$(BIN)/python -m tests.alerts

test-simulation: $(DEV)  ## run the gateway's policies in virtual time; SEEDS=20000 for more
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

soak: $(DEV)  ## run a gateway under load and faults for MINUTES=15, and see that nothing grows
	$(BIN)/python -m tests.soak --minutes $(MINUTES)
	PENSTOCK_CHAOS_REQUESTS=10000 PENSTOCK_KILLS=60 $(BIN)/python -m pytest tests/e2e/test_chaos.py \
		tests/e2e/test_kill_gateway.py --timeout 600

soak-saturation: $(DEV)  ## keep engines full for SATURATED=30 minutes, and see that none is called stalled
	$(BIN)/python -m tests.soak.saturation --minutes $(SATURATED)

bench-gateway: $(DEV)  ## compare the gateway with nginx, in about a minute
	@tools/install_test_packages.sh
	$(BIN)/python -m benchmarks.gateway --quick

monitoring: $(RUNTIME)  ## run Prometheus (:9090) and Alertmanager (:9093) until Ctrl-C
	@$(BIN)/python tools/monitoring.py

loadtest: $(RUNTIME)  ## put the running gateway under load; CONCURRENCY=32 DURATION=120
	@mkdir -p $(LOADTESTS)
	@$(BIN)/penstock bench run --concurrency $(CONCURRENCY) --duration $(DURATION)s --mix short=0.7,long=0.3 \
		--output $(LOADTESTS)/run-$(NOW)

benchmark: $(RUNTIME)  ## sweep it: short and long prompts, 1 to 64 at once, with a report
	@mkdir -p $(LOADTESTS)
	@$(BIN)/penstock bench sweep --output $(LOADTESTS)/sweep-$(NOW)

check: $(DEV)  ## run the linters, the type checker and the import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(DEV)  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(UV)  ## pin dependencies anew; UPGRADE=--upgrade takes the newest versions
	$(COMPILE) $(UPGRADE) -o requirements/runtime.txt pyproject.toml
	$(COMPILE) $(UPGRADE) -c requirements/runtime.txt -o requirements/build.txt requirements/build.in
	$(COMPILE) $(UPGRADE) -o requirements/dev.txt requirements/dev.in

clean:  ## remove .venv and what was built; .penstock stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -type d -exec rm -rf {} +

# The stamps: installed again only when what is to be installed has changed.
$(RUNTIME): pyproject.toml requirements/build.txt requirements/runtime.txt | python
	@[ -x $(BIN)/python ] || echo "Installing into $(VENV); this takes a minute, once." >&2
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || $(INSTALL_FAILED)
	@$(PIP) --require-hashes -r requirements/build.txt -r requirements/runtime.txt || $(INSTALL_FAILED)
	@$(PIP) --no-deps --no-build-isolation -e . || $(INSTALL_FAILED)
	@touch $@

$(DEV): $(RUNTIME) requirements/dev.txt
	@$(PIP) --require-hashes -r requirements/dev.txt || $(INSTALL_FAILED)
	@touch $@

$(UV):
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip install --quiet uv || $(INSTALL_FAILED)

# Before anything is made: a Python that will do, with its venv module.
python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed" >&2; \
		echo "hint: apt install python3 python3-venv, or make ... PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Penstock needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)" >&2; \
		echo "hint: install a newer one, then: make up PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module" >&2; \
		echo "hint: on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
