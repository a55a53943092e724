# make demo: see it work.  make test: linters, types, all tests.  Nothing but Python 3.11 and make is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check up bench clean lock

demo: $(READY)  ## learn handwritten digits, name one, leave the service running (ARGS=--exit stops it)
	$(BIN)/fovea demo $(ARGS)

test: $(READY)  ## linters, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(READY)  ## the fast part of `make test`
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

up: $(READY)  ## service and worker in the foreground
	$(BIN)/fovea up

bench: $(READY)  ## all benchmarks; minutes
	$(BIN)/python -m benchmarks

lock: $(READY)  ## pin the newest versions that requirements*.in allow
	$(BIN)/uv pip compile -q --upgrade --generate-hashes --universal --python-version 3.11 --no-emit-index-url requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --upgrade --generate-hashes --universal --python-version 3.11 --no-emit-index-url -c requirements.txt requirements-dev.in -o requirements-dev.txt

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): requirements-dev.txt requirements-build.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-build.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@
