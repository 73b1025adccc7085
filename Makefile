# On a fresh Debian or Ubuntu with Python 3.11 or newer: `make demo`, `make test`.
# Each target sets up what it needs; .ci/bootstrap says how.

PYTHON_M := .venv/bin/python -m
# Debian puts Orthanc in /usr/sbin, which is not on everyone's path.
export PATH := $(PATH):/usr/sbin
# DCMTK and Orthanc wait 40 ms for each acknowledgement without it.
export TCP_NODELAY := 1

.PHONY: help setup demo test test-all soak bench check format lint typecheck clean

help:
	@echo 'make demo     start the node and a small PACS, send a series, show the SEG (KEEP=1: leave it running)'
	@echo 'make test     every test but the slow ones (ARGS="-k inbox" goes to pytest)'
	@echo 'make test-all the slow ones, too, as CI does'
	@echo 'make soak     the tests that kill the node many times over'
	@echo 'make bench    the benchmarks (ARGS="inference": one part; ARGS=--quick: tiny, to try them)'
	@echo 'make check    format, lint and types, as CI does; make format mends the format'
	@echo 'make setup    only the environment, .venv'
	@echo 'make clean    remove .venv, .viewer and everything the tools left'

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	.ci/bootstrap

demo: setup
	.venv/bin/segnode demo $(if $(KEEP),--keep)

test: setup
	.ci/peers
	.ci/viewer
	$(PYTHON_M) pytest $(ARGS)

test-all:
	$(MAKE) test ARGS="-m 'not soak' $(ARGS)"

soak: setup
	.ci/peers
	$(PYTHON_M) pytest -m soak $(ARGS)

bench: setup
	.ci/peers
	$(PYTHON_M) bench $(ARGS)

check: lint typecheck

format: setup
	$(PYTHON_M) ruff format
	$(PYTHON_M) ruff check --fix

lint: setup
	$(PYTHON_M) ruff format --check
	$(PYTHON_M) ruff check

typecheck: setup
	$(PYTHON_M) mypy --strict

clean:
	rm -rf .venv .viewer build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find node tests bench config -name __pycache__ -type d -prune -exec rm -rf {} +
