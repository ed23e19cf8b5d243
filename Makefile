# SPDX-License-Identifier: LGPL-2.1-or-later
# Two commands do all the set-up on a fresh Debian machine, as root: `make run` and `make test`.

VENV ?= .venv
PYTHON ?= python3
CACHE := $(or $(HIBPREP_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hibprep)
BIN := $(VENV)/bin
export PIP_CACHE_DIR := $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test unit lint format vm bench deb clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

$(VENV)/.run: pyproject.toml
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "installing python3-venv, which $(PYTHON) lacks"; \
		apt-get update -q && apt-get install -qy --no-install-recommends python3 python3-venv; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q 'pip>=25.1'
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@if ! command -v dbus-daemon >/dev/null; then \
		echo "installing dbus-daemon, which the tests of the bus talk to"; \
		apt-get update -q && apt-get install -qy --no-install-recommends dbus-daemon; fi
	@if ! pkg-config --exists libvirt 2>/dev/null || ! command -v gcc >/dev/null \
		|| ! $(PYTHON) -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then \
		echo "installing libvirt-dev, pkg-config and gcc, which libvirt-python is built with"; \
		apt-get update -q && apt-get install -qy --no-install-recommends \
			libvirt-dev pkg-config gcc libc6-dev python3-dev; fi
	$(BIN)/pip install -q -e '.[libvirt]' --group dev
	@touch $@

# make itself knows no exit code 3: "partly done, the report says why" is said and taken for an end.
run: $(VENV)/.run ## prepare this machine for hibernation; prints the plan and the report
	$(BIN)/hibprep plan
	@$(BIN)/hibprep prepare; code=$$?; \
	if [ $$code -eq 3 ]; then echo "exit code 3: partly done, for the reason in the report"; \
	else exit $$code; fi

test: $(VENV)/.dev lint ## every quick test, and one guest that is prepared, hibernates and resumes
	$(BIN)/python -m pytest -m "not vm or smoke" --must

unit: $(VENV)/.dev ## the tests that need neither root nor a guest
	$(BIN)/python -m pytest tests/unit tests/bus

lint: $(VENV)/.dev ## ruff, mypy, import-linter, deptry, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --scripts-are-modules hooks/systemd-sleep/hibprep
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/codespell

format: $(VENV)/.dev ## put the code into ruff's format
	$(BIN)/ruff format .

vm: $(VENV)/.dev ## the whole matrix of guests; takes an hour or more where they are emulated
	$(BIN)/python -m pytest -m vm --must -rA tests/vm tests/libvirt

bench: $(VENV)/.dev ## the experiment's quick form, in a guest of 1 GiB; asserts nothing
	$(BIN)/python -m bench hibernate --memory 1G --settle 10 --runs 1 --image-size default \
		--condition idle,vanilla,hibprep --again --output $(CACHE)/bench/quick.jsonl

deb: $(VENV)/.run ## the Debian package, in dist/; built in a small Debian of its own, as root
	$(BIN)/python -m bench lab deb --output dist

clean: ## take away the environment and what building left; the cache of images stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
