# Everything that CI and a newcomer run. `make demo` and `make test` set up all they need on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types format ext models clean

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/picert demo

models: $(STAMP)
	$(BIN)/picert pull smollm2-135m-instruct
	$(BIN)/picert pull qwen2.5-coder-0.5b-instruct
	$(BIN)/picert pull qwen2.5-coder-1.5b-instruct

test: models
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)

types: $(STAMP)
	mkdir -p build/types && rm -rf build/types/picert && cp -rs "$(CURDIR)/picert" build/types/picert
	ln -sfn "$(CURDIR)/kernels" build/types/picert/kernels && ln -sfn "$(CURDIR)/models" build/types/picert/models
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p picert

ext: $(STAMP)
	$(BIN)/python setup.py -q build_ext --inplace

clean:
	rm -rf build dist *.egg-info $(VENV)
