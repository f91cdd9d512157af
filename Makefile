# make train   trains a VQ-VAE on real images and shows what it learnt
# make demo    trains, trains a prior over the codes, samples, and shows what the codes mean
# make test    proves the mathematics
# Both make .venv when it is missing. Options for the scripts: make train ARGS="--steps 2000"

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: train demo test test-slow lint mutants clean

train: .venv/train.done
	$(BIN)/python -m experiments.train $(ARGS)

demo: .venv/train.done
	$(BIN)/python -m experiments.demo $(ARGS)

test: .venv/dev.done
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

test-slow: .venv/dev.done
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m slow $(ARGS)

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

clean:
	rm -rf .venv build dist *.egg-info
