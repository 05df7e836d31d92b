# Two commands matter: `make serve` and `make test`. Both set up what they need in .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
CHECKS := $(VENV)-checks
BILL := $(VENV)-bill
ARGS ?=
# Which lock the service is installed from: serving, or serving-cuda where there is an NVIDIA GPU.
SERVING ?= serving

# uv, where this machine has it, installs in a fraction of the time that pip takes. It compiles as pip does: what is compiled
# at the first import warns of what libraries have written, and takes memory that a fuzzer counts as ours.
UV ?= $(shell command -v uv)
install = $(if $(UV),$(UV) pip install --quiet --compile-bytecode --python $(1),$(1) -m pip install --quiet)

.DEFAULT_GOAL := help
.PHONY: help serve extras test fuzz soak licences lint format proto ui screenshots lock image image-cuda bill rollout-test \
	benchmark benchmark-peers benchmark-soak benchmark-check data train evaluate compare export clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serving ## answer on http://localhost:3000 with the committed model
	@exec $(BIN)/python -m serving serve

extras: $(VENV)/.serving ## install what single commands of `python -m serving` need beside: Parquet, Ray, pictures, microphone
	$(call install,$(BIN)/python) --require-hashes -r requirements/extras.txt

test: $(VENV)/.dev ## run every test, as many files at a time as there are cores, four at most
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: $(VENV)/.dev ## look for input that breaks decoding, messages and routes.yaml, ten minutes each; ARGS="3600" for an hour each
	@for target in decode messages routes; do $(BIN)/python -m tests.fuzz $$target $(or $(ARGS),600) || exit 1; done

soak: $(VENV)/.dev ## half an hour of good and hostile traffic: memory, descriptors and threads stay flat; ARGS="--minutes 3 --small"
	$(BIN)/python -m tests.soak $(ARGS)

licences: $(VENV)/.dev ## write down anew whose licences the dependencies have: requirements/licences.json
	$(BIN)/python -m tests.licences

lint: $(VENV)/.dev ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PROTOS := $(shell find serving/proto -name '*.proto')

proto: $(VENV)/.dev ## generate the stubs of serving/proto anew
	PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I . --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. $(PROTOS)

LIBRARIES := build/npm/node_modules
VENDOR ?= serving/ui/vendor

ui: ## take the web page's libraries from npm, as requirements/package-lock.json says, into serving/ui/vendor
	mkdir -p build/npm $(VENDOR)
	cp requirements/package.json requirements/package-lock.json build/npm
	npm ci --prefix build/npm --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved
	cp $(LIBRARIES)/wavesurfer.js/dist/wavesurfer.esm.js $(LIBRARIES)/uplot/dist/uPlot.iife.min.js $(LIBRARIES)/uplot/dist/uPlot.min.css $(VENDOR)
	for name in uplot wavesurfer.js; do grep '"version"' $(LIBRARIES)/$$name/package.json | sed "s/.*: \"\(.*\)\".*/$$name \1\n/"; cat $(LIBRARIES)/$$name/LICENSE; echo; done > $(VENDOR)/NOTICE.txt

SHOTS := test_the_microphone_is_heard_live test_a_clip_is_answered_on_one_card

screenshots: $(VENV)/.dev ## take the two pictures of the page in docs/ anew, from its tests
	$(BIN)/python -m pytest $(foreach test,$(SHOTS),tests/e2e/test_page.py::$(test))
	cp build/screenshots/page.png build/screenshots/page-live.png docs

image: ## build the image with docker, podman or buildah; its size goes into build/, after `make bill` its bill of materials too
	@k8s/image.sh serving timbre $(ARGS)

image-cuda: ## the same for NVIDIA GPUs
	@k8s/image.sh serving-cuda timbre-cuda $(ARGS)

bill: $(BILL)/.ready ## install what writes an image's bill of materials, where `make test` has not: make bill image

rollout-test: $(VENV)/.dev ## play a Kubernetes rollout on this machine: HAProxy, pods replaced and killed under load
	$(BIN)/python -m pytest tests/k8s/test_rollout.py -s $(ARGS)

# A service elsewhere has no peers here, and single parts need none, but for the one of that name.
ALONE := $(findstring --url,$(ARGS))$(if $(findstring --only,$(ARGS)),$(if $(findstring peers,$(ARGS)),,--only))
benchmark: $(if $(ALONE),$(VENV)/.dev,benchmark-peers) ## measure everything, going on where it stopped; ARGS="--only latency", ARGS="--url http://..."
	$(BIN)/python -m benchmarks run $(ARGS)

benchmark-peers: $(VENV)/.dev ## install what the service is measured beside, each in an environment of its own
	@$(BIN)/python -m benchmarks peers

benchmark-soak: $(VENV)/.dev ## half an hour at 70 % of capacity; ARGS=600 for ten minutes
	$(BIN)/python -m benchmarks soak $(ARGS)

# `make benchmark-check A.json B.json`: what follows are files, not targets.
ifeq (benchmark-check,$(firstword $(MAKECMDGOALS)))
FILES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(FILES)
$(FILES): ; @:
endif

benchmark-check: $(VENV)/.dev ## compare two results files by ratios: make benchmark-check BEFORE.json AFTER.json
	@$(BIN)/python -m benchmarks check $(FILES) $(ARGS)

data: $(VENV)/.dev ## download RAVDESS and TESS into data/ (or ARGS="--data DIR"), resuming
	$(BIN)/python -m training data $(ARGS)

train: $(VENV)/.dev ## train; ARGS="--fold 0 --epochs 100" and so on, see python -m training train --help
	$(BIN)/python -m training train $(ARGS)

evaluate: $(VENV)/.dev ## examine a run: ARGS="--run runs/NAME"
	$(BIN)/python -m training evaluate $(ARGS)

compare: $(VENV)/.dev ## every model family on the same splits, resuming; ARGS="--rows cnn lstm --splits fold0"
	$(BIN)/python -m training compare --folds exported/folds.json --readme README.md $(ARGS)

export: $(VENV)/.dev ## export a run: ARGS="--run runs/NAME --version 3"
	$(BIN)/python -m training export $(ARGS)

lock: $(VENV)/.dev ## resolve requirements/*.in anew
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--generate-hashes requirements/serving.in -o requirements/serving.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--generate-hashes --override requirements/overrides-cuda.in -c requirements/serving.txt requirements/serving-cuda.in -o requirements/serving-cuda.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--generate-hashes -c requirements/serving.txt requirements/extras.in -o requirements/extras.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--no-emit-package torch --override requirements/overrides.in -c requirements/serving.txt requirements/dev.in \
		-o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		requirements/clients.in -o requirements/clients.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--generate-hashes -c requirements/dev.txt requirements/bill.in -o requirements/bill.txt
	$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--generate-hashes requirements/checks.in -o requirements/checks.txt
	for peer in benchmarks/peers/*/requirements.in; do \
		$(BIN)/uv pip compile -q --universal -p 3.11 --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
			--no-emit-package torch $$peer -o $${peer%.in}.txt || exit 1; \
	done

clean: ## remove the environment and caches, not data or runs
	rm -rf $(VENV) $(CHECKS) $(BILL) .venv-peers .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: requirements/$(SERVING).txt | $(VENV)/bin/python
	$(call install,$(BIN)/python) --no-deps --require-hashes -r requirements/$(SERVING).txt
	@touch $@

# torch comes first and by its own, by pip: which build of it (CPU, CUDA) is the machine's choice and not locked.
$(VENV)/.dev: requirements/dev.txt $(VENV)/.serving
	$(BIN)/python -m pip install --quiet -c requirements/dev.txt $$(grep -o '^torch==[^ ]*' requirements/dev.in)
	$(call install,$(BIN)/python) --no-deps -r requirements/dev.txt
	@touch $@

# checkov, which wants other versions of what we want too.
$(CHECKS)/.ready: requirements/checks.txt | $(VENV)/bin/python
	$(BIN)/python -m venv $(CHECKS)
	$(call install,$(CHECKS)/bin/python) --require-hashes -r requirements/checks.txt
	@touch $@

$(BILL)/.ready: requirements/bill.txt
	$(PYTHON) -m venv $(BILL)
	$(call install,$(BILL)/bin/python) --require-hashes -r requirements/bill.txt
	@touch $@
