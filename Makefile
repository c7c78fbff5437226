# SPDX-License-Identifier: Apache-2.0
# Everything runs from a clean clone: each target sets up what it needs (as root, for apt and the lab).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

export OVMS_SCALER_CACHE ?= $(CURDIR)/.cache
export PYTHONDONTWRITEBYTECODE := 1
PYTHON := $(CURDIR)/.venv/bin/python
# A run has its own place for temporary files: pytest's usual one is shared, and cleaned by whoever comes next.
PYTEST := tests/lab/pytest.sh
DIST ?= bookworm trixie
# Anything: tests that one release is enough for run on each.
export EVERYWHERE ?=
# Booted hosts at once. They mostly wait, so three go well on two cores, if nothing else needs them meanwhile.
JOBS ?= 1
SYSTEM_JOBS := $(if $(filter-out 1,$(JOBS)),--numprocesses $(JOBS) --dist loadfile)
# Options for pytest, for example `make system PYTEST_ARGS="-k reboot"`.
PYTEST_ARGS ?=
# Options for what is measured and fuzzed, for example `make faults ARGS="--fault kill --balancer ovms-scaler"`.
ARGS ?=

.PHONY: help setup lint format test image deb lintian standin clients system vm bench faults fuzz demo demo-gpu check clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## install what is missing from Debian and make .venv
	@tests/lab/setup.sh

lint: setup ## ruff, mypy, shellcheck, codespell
	@tests/lab/lint.sh

format: setup ## let ruff rewrite the Python files
	@.venv/bin/ruff check --fix --quiet; .venv/bin/ruff format --quiet

test: setup ## the fast tier: unit tests against real files, sockets and nginx
	@$(PYTEST) 10m --numprocesses auto --timeout 60 $(PYTEST_ARGS)

image: setup ## root file systems of the lab's hosts
	@$(PYTHON) -m lab.image $(DIST)

deb: setup ## the packages, each in its own release: DIST=bookworm or DIST=trixie for one
	@$(PYTHON) -m lab.deb build $(DIST)

lintian: deb ## lintian of each release over its package
	@$(PYTHON) -m lab.deb lintian $(DIST)

standin: setup ## the stand-in for the ovms program, with its model
	@tests/lab/standin/build.sh "$(OVMS_SCALER_CACHE)/ovms-standin"

clients: setup
	@tests/lab/venv.sh tests/clients/requirements.txt "$(OVMS_SCALER_CACHE)/clients"

system: image deb standin clients ## the integration tier: booted hosts with the package; EVERYWHERE=1: all on each release; JOBS=3: quicker
	@$(PYTEST) 60m -m system --timeout 600 $(SYSTEM_JOBS) $(PYTEST_ARGS)

vm: setup ## the NUMA and GPU tier: a virtual machine with the package installed
	@$(PYTHON) -m lab.vm_image
	@run() { $(PYTEST) 20m -m vm --timeout 600 $(PYTEST_ARGS); }; run || \
	if [ $$? -eq 75 ]; then echo "vm: QEMU crashed, which says nothing of what is tested: once more"; run; else false; fi

bench: deb standin ## measure agent and front, print the numbers: ARGS="fronts balance" for some parts
	@PYTHONPATH=agent:tests $(PYTHON) -m bench $(ARGS)

faults: setup standin ## harm hosts under load, behind our front and behind other balancers: ARGS=--help
	@$(PYTHON) -m faults $(ARGS)

fuzz: setup ## run the fuzzers: ARGS="--seconds 600 config" for one and longer
	@PYTHONPATH=agent:tests $(PYTHON) -m fuzz $(ARGS)

demo: image deb standin ## a host from bare metal to an answer, shown step by step
	@$(PYTHON) tests/lab/demo.py

demo-gpu: setup ## a GPU pulled out of an emulated machine under load, and put back (about five minutes)
	@$(PYTHON) tests/lab/demo_gpu.py

check: lint test lintian system vm ## everything that must be green

clean: ## remove caches and the virtual environment
	rm -rf .venv $(OVMS_SCALER_CACHE)
