# Python 3.11+ and make are all that a fresh machine needs.
PYTHON ?= python3
VENV   := .venv
RUN    := OMP_NUM_THREADS=1 $(VENV)/bin/python
STAMP  := $(VENV)/.installed

.PHONY: env test test-full soak newcomer package docs docs-links demo lint clean

env: $(STAMP)

# mmengine and mmcv-lite come without their dependencies: both ask for opencv-python, which needs system libraries that
# bare machines lack; the headless build of requirements/lock.txt serves them.
$(STAMP): requirements/lock.txt setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mmengine==0.10.7 mmcv-lite==2.2.0
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(VENV)/bin/python -c 'import mmengine'    # yapf writes its grammar now: of two first processes one would read half of it
	touch $(STAMP)

test: env
	$(RUN) -m pytest -n 2 --dist loadfile

# Full-size golden cases too: several minutes and 8 GB.
test-full: env
	$(RUN) -m pytest -m "not gpu"

# Every command of README, typed in a fresh environment with a wheel of this checkout: a minute.
newcomer: env
	$(RUN) tests/newcomer.py

# The site in docs/_build: warnings are errors; then every block of code and the notebook. What it needs comes on top of the env.
docs: $(VENV)/.docs
	$(RUN) -m sphinx -W --keep-going -q -c docs/site -b html docs docs/_build
	$(RUN) tests/doc_blocks.py
	$(RUN) docs/site/run_notebooks.py

# Links of the site that lead out of it; asks their hosts, so it needs the network. `make docs` checks those within.
docs-links: $(VENV)/.docs
	$(RUN) -m sphinx -W --keep-going -q -c docs/site -b linkcheck -d docs/_build/.doctrees docs docs/_build/links

$(VENV)/.docs: $(STAMP) requirements/docs.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	touch $@

# Wheel and source distribution into dist/.
package: env
	rm -rf build dist
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(VENV)/bin/python -W ignore setup.py --quiet sdist

# Kills, many processes, growth of memory, rows of images: a quarter of an hour, each script prints a table.
soak: env
	$(RUN) tests/soak/prepare_kills.py
	$(RUN) tests/soak/training_kills.py
	$(RUN) tests/soak/training_kills.py --processes 2 --kills 8 --iterations 24
	$(RUN) tests/soak/process_numbers.py
	$(RUN) tests/soak/memory_growth.py
	$(RUN) tests/soak/image_rows.py

demo: env
	$(RUN) tools/demo.py

lint: env
	$(VENV)/bin/ruff check jrs tools tests plugins configs benchmarks

clean:
	rm -rf outputs work_dirs .pytest_cache .ruff_cache docs/_build docs/reference dist build
