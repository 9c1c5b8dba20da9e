# The two commands of the README are `make demo` and `make test`; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: demo test env lint types evidence results benchmarks wheel lock clean

demo: env
	@$(BIN)/distil run

test: env lint types
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 --dist loadfile

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked environment into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

# Long runs on real data (DISTIL_DATA); resumable, one JSON per recipe in evidence/. Then runs killed and gone on with.
evidence: env
	$(BIN)/python tools/evidence.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/kills.py

results: env
	$(BIN)/python tools/results.py

# Every script in benchmarks/ in turn (some need peers, and say so) but for those for CUDA (h*), then docs/performance.md.
benchmarks: env
	@for script in $$(grep -l __main__ benchmarks/*.py | grep -v benchmarks/h); do \
	  echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; \
	done
	$(BIN)/python tools/performance.py

# dist/distil-*.whl; cards, golden plan and evidence travel with it.
wheel: env
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

lock:
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	.lock-venv/bin/python -m pip freeze --exclude distil | grep -Ev "^(-e|nvidia-|cuda-|triton)" > requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) dist runs .pytest_cache .mypy_cache .ruff_cache
