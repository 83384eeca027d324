# Everything that CI and a newcomer run. `make demo` and `make test` set up all they need on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEPS := $(VENV)/.deps
STAMP := $(VENV)/.installed
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h)
MODELS := smollm2-135m-instruct qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct

.PHONY: demo test models lint types format docs ext clean

demo: $(STAMP) ## one cloud and two edges on this machine, and a question to them
	$(BIN)/picert demo

test: models ## the whole suite, on the real models too
	$(BIN)/pytest

models: $(STAMP) ## fetch what demo and tests use; nothing to do where they are
	for model in $(MODELS); do $(BIN)/picert pull $$model || exit; done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# mypy cannot follow the package map, so it is shown a tree of links that looks like the installed package.
types: $(STAMP)
	rm -rf build/types && mkdir -p build/types && cp -rs "$(CURDIR)/picert" build/types/picert
	ln -s "$(CURDIR)/kernels" build/types/picert/kernels
	ln -s "$(CURDIR)/models" build/types/picert/models
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p picert

docs: $(STAMP) ## pages that are made from the code
	$(BIN)/python -m picert.cloud.field_list > docs/conformance.md

ext: $(STAMP) ## the extension, if a C++ file has changed

clean:
	rm -rf build dist *.egg-info picert/*.so $(VENV)

# What the build needs comes first and pinned, so that torch is the CPU build and nothing is fetched twice.
$(DEPS): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch pybind11 setuptools
	touch $@

# An editable install also compiles the extension, into picert/.
$(STAMP): $(DEPS) setup.py $(CPP)
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
