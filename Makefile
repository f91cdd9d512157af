# make train   trains a VQ-VAE on real images and writes a report
# make demo    trains, trains a prior over the codes, samples, and shows what the codes mean
# make test    tests the mathematics
# make test-newest, test-floors: the core of that, with the newest libraries and the oldest
# Both create .venv if it is missing. Options for the scripts: make train ARGS="--steps 2000"

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# Most of the time goes into compiling. In haste: with the options that the compiler of that venv takes.
HASTE = import vqvae_jax as vj; print(*(f"--{k}={v}".lower() for k, v in vj.fast_compile().items()))
IN_HASTE = XLA_FLAGS="$$XLA_FLAGS $$($(BIN)/python -c '$(HASTE)')"
CORE := -m pytest -n auto --maxprocesses 8 --dist loadfile -m "core and not slow" $(ARGS)
# An optimising compiler might undo what makes these exact: never in haste alone.
EXACT := tests/search/test_search.py tests/test_estimators.py

.PHONY: train demo test test-slow test-newest test-floors lint mutants clean

train: .venv/train.done
	$(BIN)/python -m experiments.train $(ARGS)

demo: .venv/train.done
	$(BIN)/python -m experiments.demo $(ARGS)

test: .venv/dev.done
	$(IN_HASTE) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

test-slow: .venv/dev.done
	$(IN_HASTE) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m slow $(ARGS)

test-newest: BIN := .venv-newest/bin
test-newest: .venv-newest/test.done
	$(IN_HASTE) $(BIN)/python $(CORE) $(EXACT:%=--ignore=%)
	$(BIN)/python $(CORE) $(EXACT)

test-floors: BIN := .venv-floors/bin
test-floors: .venv-floors/test.done
	$(BIN)/python $(CORE)

lint: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vqvae_jax

mutants: .venv/dev.done
	$(BIN)/python tests/mutants.py $(ARGS)

.venv/%.done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

# Both in folders of their own, with a Python that need not be the default.
.venv-newest/test.done: pyproject.toml
	test -x $(@D)/bin/python || $$(.ci/find_python 3.13 3.12) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv-floors/test.done: pyproject.toml tests/floors.txt
	test -x $(@D)/bin/python || $$(.ci/find_python 3.11) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' -c tests/floors.txt
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info
