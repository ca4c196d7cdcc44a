# Everything a checkout needs, on a machine with Python 3.11 or newer and make. All of it stays in .venv.
# `make PYTHON=/path/to/python3.12 test` chooses the interpreter; PYTEST_ARGS="-k claim -x" chooses tests.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo dev docs docs-serve test test-all test-postgres coverage check storm soak model format bench lock lock-image image-check release image publish notes matrix pictures clean

# Bytecode is kept: without it each worker rewrites the assertions of all tests anew, ten seconds of CPU.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
CACHE := $(VENV)/.cache
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
# More than the two CPUs that it is measured on: tests wait for leases, deadlines and processes. The slow ones keep a CPU
# busy for longer, so `make test` has one more.
WORKERS := 3
STAMP := $(VENV)/.installed
CANDIDATES := $(PYTHON) python3.13 python3.12 python3.11 python3
SOURCES := $(wildcard receiver tests alembic examples benchmarks scripts)

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: $(STAMP) ## Push real tasks through a real receiver and PostgreSQL, and show what happened
	@$(BIN)/receiver demo

dev: $(STAMP) ## Run PostgreSQL, a local Pub/Sub, and the examples' tasks in a receiver, until Ctrl-C
	@cd examples/plugin && exec $(CURDIR)/$(BIN)/receiver dev --modules example_tasks

# worksteal: a worker that has nothing left takes half of what the other one has still to do.
PYTEST = -m pytest --numprocesses $(WORKERS) --dist worksteal

test: WORKERS := 4
test: $(STAMP) ## Run the tests that find most bugs, about five and a half minutes on two CPUs (PYTEST_ARGS="-k claim" chooses among all tests)
	$(BIN)/python $(PYTEST) $(or $(PYTEST_ARGS),-m "not slow")

test-all: test ## Run `make test`, then the slow tests too: fuzzing, overload, a short storm, a clean install (.ci/run)
	$(BIN)/python $(PYTEST) -m slow

coverage: $(STAMP) ## Run all tests with branch coverage, and list what they leave out; twice as slow
	@mkdir -p $(CACHE)/coverage
	@$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report $(if $(PYTEST_ARGS),--fail-under=0)

test-postgres: $(STAMP) ## Run the tests of the record on another PostgreSQL (VERSION=14, or a folder with its programs)
	$(BIN)/python scripts/test_postgres.py $(VERSION) $(PYTEST_ARGS)

check: $(STAMP) ## Lint, format, types, the direction of imports, and known vulnerabilities of what is installed
	$(BIN)/ruff check --cache-dir $(CACHE)/ruff $(SOURCES)
	$(BIN)/ruff format --check --cache-dir $(CACHE)/ruff $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir $(CACHE)/imports
	$(BIN)/python scripts/audit.py

format: $(STAMP) ## Rewrite the sources as `make check` wants them
	$(BIN)/ruff check --cache-dir $(CACHE)/ruff --fix $(SOURCES)
	$(BIN)/ruff format --cache-dir $(CACHE)/ruff $(SOURCES)

storm: $(STAMP) ## Kill, freeze, cut and flood receivers for ten minutes, and balance the books (STORM_ARGS="--seed 7")
	@$(BIN)/python -m tests.storm $(STORM_ARGS)

soak: $(STAMP) ## Half of a receiver's capacity for twenty minutes: what it holds stays flat (SOAK_ARGS="--minutes 2")
	@$(BIN)/python -m tests.soak $(SOAK_ARGS)

model: $(STAMP) ## Explore the protocols of the record with larger bounds than the suite, for minutes (MODEL_ARGS="--rows 3")
	@$(BIN)/python -m tests.model $(MODEL_ARGS)

bench: $(STAMP) ## Measure the receiver beside what else one would use (BENCH_ARGS="--quick peers" for a part; needs wrk)
	@$(PIP_INSTALL) --quiet --require-hashes -r requirements/bench.txt
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(STAMP) ## Build the site into build/site, and fail on a broken link
	@$(PIP_INSTALL) --quiet --require-hashes -r requirements/docs.txt
	@$(BIN)/python scripts/build_site.py

docs-serve: docs ## Build the site, and serve it at http://127.0.0.1:8000 until Ctrl-C
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: $(STAMP) ## Write the requirement locks anew (UPGRADE=1 for newer releases)
	$(LOCK) pyproject.toml --extra local --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	$(LOCK) --group pyproject.toml:bench -c requirements/dev.txt -o requirements/bench.txt
	$(LOCK) --group pyproject.toml:docs -c requirements/dev.txt -o requirements/docs.txt
	$(LOCK) --group pyproject.toml:build -c requirements/dev.txt -o requirements/build.txt
	cp requirements/build.txt examples/plugin/requirements-build.txt
	$(LOCK) --group pyproject.toml:release -c requirements/dev.txt -o requirements/release.txt
	$(LOCK) --group pyproject.toml:publish -c requirements/dev.txt -o requirements/publish.txt

lock-image: $(STAMP) ## Pin the images that the Dockerfiles build on, by the digests that their registries say
	$(BIN)/python scripts/lock_image.py

release: $(STAMP) ## Build the commit into dist/ (sdist, wheel, SBOM), if nothing speaks against it (TAG=v1.2.3 must be the version)
	@$(PIP_INSTALL) --quiet --require-hashes -r requirements/release.txt
	$(BIN)/python scripts/release.py $(TAG)

# The three that follow are steps of .github/workflows/release.yml, where they hold a token: no environment with all our tools.
image: ## Build the image, push it, and write its digest into build/image.digest (IMAGE=registry/name:tag)
	docker build --tag $(IMAGE) .
	docker push $(IMAGE)
	@mkdir -p build
	docker inspect --format '{{index .RepoDigests 0}}' $(IMAGE) | sed 's/.*@//' > build/image.digest

publish: ## Upload dist/ to the package index, which knows the release workflow by its token
	python3 -m venv build/publish
	build/publish/bin/python -m pip install --quiet --require-hashes -r requirements/publish.txt
	build/publish/bin/uv publish --trusted-publishing always dist/*.whl dist/*.tar.gz

notes: ## Print what the changelog says of this version, and the image (IMAGE=registry/name@sha256:...)
	@python3 scripts/changelog.py $(IMAGE)

matrix: $(STAMP) ## Run a part of the suite on each Python 3.11 to 3.14 that is here, with the newest dependencies (MATRIX_ARGS="--python 3.14 -- tests/unit")
	@$(BIN)/python scripts/matrix.py $(MATRIX_ARGS)

image-check: $(STAMP) ## Run the Dockerfile's install steps in a temporary folder
	$(BIN)/python scripts/image_check.py

pictures: $(STAMP) ## Draw the pictures of the documentation anew
	$(BIN)/python -m scripts.pictures

clean: ## Remove everything the other targets made
	rm -rf $(VENV) .cache .receiver dist build .ruff_cache .mypy_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter is found by running it: `python3` may be too old, or a shim that runs nothing.
$(STAMP): requirements/dev.txt pyproject.toml
	@enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$enough" 2>/dev/null; then \
		python=; \
		for candidate in $(CANDIDATES); do \
			if $$candidate -c "$$enough" >/dev/null 2>&1; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "error: no Python 3.11 or newer found (tried: $(strip $(CANDIDATES))); install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; \
		fi; \
		rm -rf $(VENV); \
		echo "Making $(VENV) with $$($$python --version) ..."; \
		if ! output=$$($$python -m venv $(VENV) 2>&1); then \
			rm -rf $(VENV); \
			echo "error: $$python cannot make a virtual environment (on Debian: apt-get install python3-venv): $$(echo "$$output" | tail -n 1)" >&2; exit 1; \
		fi; \
	fi
	@echo "Installing requirements/dev.txt ($$(grep -c '^[a-z]' requirements/dev.txt) packages) ..."
	@mkdir -p $(CACHE)
	@{ $(PIP_INSTALL) --require-hashes -r requirements/dev.txt || echo FAILED; } 2>$(CACHE)/pip.log | { \
		failed=0; \
		while read -r word rest; do \
			case $$word in Collecting|Processing) printf .;; Installing) printf ' installing';; FAILED) failed=1;; esac; \
		done; \
		echo; exit $$failed; \
	} || { tail -n 5 $(CACHE)/pip.log >&2; exit 1; }
	@echo "Installing the checkout ..."
	@$(PIP_INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@
