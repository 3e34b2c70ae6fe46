# `make demo` and `make test` are all the set-up there is: they make .venv from pinned versions.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs environment

demo: environment
	$(BIN)/frostline demo --resume

test: environment
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

environment: .venv/made

.venv/made: pyproject.toml constraints.txt scripts/environment
	PYTHON="$(PYTHON)" scripts/environment
	touch .venv/made

docs: environment
	scripts/docs
