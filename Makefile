# Each target is one file. A question's JSON is written last, so it marks the question as done.

PYTHON         = .venv/bin/python## Python to use; with another one, such as python3, make installs nothing
OUT            = artifacts## folder for all results
DATA           =## HDF5 file in Galaxy10's format (cutouts.py creates one from pictures); empty: see SOURCE
SOURCE         =## real or synthetic; empty: real if the download succeeds
DATASET        =## real set to download: sdss or decals; empty: sdss
COUNT          =## images in a synthetic set; empty: as many as in Galaxy10 SDSS
HOLD_BACK      =## classes for Q5: numbers such as 8,9, names, or none; empty: 8,9 if the classes are Galaxy10's, else none
SPLIT          =## stratified (by class, seeded) or file (in the file's order); empty: the file's dataset split, else stratified
MAIN_TRAIN     =## training images of classes 0-7; empty: 18000, or the same fraction of other data
TRANSFER_TRAIN =## training images of classes 8 and 9; empty: 1000, or the same fraction of other data
SEED           = 0## random seed
EPOCHS         =## epochs of all three training runs; empty: the assignment's 50, 50 and 20
DEVICE         = auto## auto, cpu, cuda or mps; auto also accepts results of any device
SEEDS          =## seeds of the studies, such as 0-4 or 3; empty: 0-4
override OUT := $(patsubst ~/%,$(HOME)/%,$(OUT))
# make splits names at spaces and colons, and with an empty OUT `make clean` would remove files in /.
odd = $(filter-out 1,$(words $(OUT))$(findstring ',$(OUT))$(findstring :,$(OUT))$(filter ~%,$(OUT)))
$(if $(odd),$(error OUT='$(OUT)' must name one folder, without spaces, colons and quotes, and with ~ only as in ~/results))

.DELETE_ON_ERROR:
# No two training runs at once, even with -j: each uses all cores, and two would wait for each other's threads.
.NOTPARALLEL:
.PHONY: all data fcn cnn confusion transfer studies test test-oldest lint smoke bench notebook skeleton course playground export clean help FORCE

# The scripts' options, quoted for the shell. An empty variable keeps the script's default.
option = $(if $(strip $(2)),$(1) '$(subst ','\'',$(2))')
COMMON = --out '$(OUT)' $(call option,--seed,$(SEED))
Q1     = $(COMMON) $(call option,--data,$(DATA)) $(call option,--source,$(SOURCE)) $(call option,--dataset,$(DATASET)) \
    $(call option,--count,$(COUNT)) $(call option,--hold-back,$(HOLD_BACK)) $(call option,--split,$(SPLIT)) \
    $(call option,--main-train,$(MAIN_TRAIN)) $(call option,--transfer-train,$(TRANSFER_TRAIN))
Q4     = $(COMMON) $(call option,--device,$(DEVICE))
TRAIN  = $(Q4) $(call option,--epochs,$(EPOCHS))

# A question runs again if its script, a file in common/ or a record that it reads is newer than its JSON, or if
# common/storage/stale.py lists it: its options differ from the variables, a file is missing, or DATA is newer.
CODE  = $(wildcard common/*.py common/*/*.py)
check = $(if $(shell command -v $(firstword $(PYTHON))),$(PYTHON),python3) -S -m common.storage.stale $(Q1) $(TRAIN) || echo FAILED
# playground and export use the networks in OUT, whatever their options.
unchecked = help clean playground export
STALE := $(if $(filter-out $(unchecked),$(or $(MAKECMDGOALS),all)),$(if $(wildcard $(OUT)/q*.json),$(shell $(check))))
$(if $(filter FAILED,$(STALE)),$(error Cannot check whether $(OUT) is up to date, see above: fix PYTHON, or run make clean))
# An interrupted training run resumes if its checkpoint is newer than its dependencies and its JSON.
resume = $(if $(shell find $(@:.json=.resume.pt) $(patsubst %,-newer %,$(filter-out FORCE,$^) $(wildcard $@)) 2> /dev/null),--resume=if-same)
# Q1's record says whether there are classes for Q5. This is unknown before Q1 runs again.
no_transfer = $(shell grep -ls '"transfer_train": \[\]' '$(OUT)/q1_data.json')
fell_back   = $(shell grep -ls '"fallback": true' '$(OUT)/q1_data.json')
# Without DATA=, Q1 must not replace results on the user's own file with results on Galaxy10.
own_file    = $(if $(DATA)$(SOURCE)$(DATASET),,$(shell sed -n '/"args"/s/.*"data": "\([^"]*\)".*/\1/p' '$(OUT)/q1_data.json' 2> /dev/null))
TRANSFER   := $(if $(filter q1_data,$(STALE))$(if $(no_transfer),,known),$(OUT)/q5_transfer.json)
# make only fills .venv, and recreates it if its Python is gone. With another PYTHON, import errors name missing packages.
installed = $(if $(filter .venv/bin/python,$(PYTHON)),.venv/$(1).installed)

all: $(OUT)/summary.txt ## answer all five questions and print a table
	@$(if $(fell_back),echo 'These galaxies are SYNTHETIC because the download failed: make all SOURCE=real tries again.')
data: $(OUT)/q1_data.json ## Q1: read, plot, split and measure the galaxies
fcn: $(OUT)/q2_fcn.json ## Q2: train the fully connected network
cnn: $(OUT)/q3_cnn.json ## Q3: train the convolutional network
confusion: $(OUT)/q4_confusion.json ## Q4: confusion matrices of both networks
transfer: $(OUT)/q5_transfer.json ## Q5: transfer the CNN's backbone to two new classes
$(STALE:%=$(OUT)/%.json): FORCE
$(OUT)/q1_data.json: q1_data.py $(CODE) | $(call installed,requirements)
	$(if $(own_file),$(error $(OUT) holds results on another file: repeat DATA=$(own_file), or choose another OUT))
	$(PYTHON) q1_data.py $(Q1)
$(OUT)/q2_fcn.json: q2_fcn.py $(CODE) $(OUT)/q1_data.json | $(call installed,requirements)
	$(PYTHON) q2_fcn.py $(TRAIN) $(resume)
$(OUT)/q3_cnn.json: q3_cnn.py $(CODE) $(OUT)/q1_data.json $(OUT)/q2_fcn.json | $(call installed,requirements)
	$(PYTHON) q3_cnn.py $(TRAIN) $(resume)
$(OUT)/q4_confusion.json: q4_confusion.py $(CODE) $(OUT)/q1_data.json $(OUT)/q2_fcn.json $(OUT)/q3_cnn.json | $(call installed,requirements)
	$(PYTHON) q4_confusion.py $(Q4)
$(OUT)/q5_transfer.json: q5_transfer.py $(CODE) $(OUT)/q1_data.json $(OUT)/q3_cnn.json | $(call installed,requirements)
	$(if $(no_transfer),@echo 'No classes are held back (HOLD_BACK): there is no Q5.',$(PYTHON) q5_transfer.py $(TRAIN) $(resume))
$(OUT)/summary.txt: summary.py $(CODE) $(patsubst %,$(OUT)/%.json,q1_data q2_fcn q3_cnn q4_confusion) $(TRANSFER)
	$(PYTHON) summary.py --out '$(OUT)'

# A study reuses existing results with the same data and settings, so it always runs.
STUDY = --out '$(OUT)' $(call option,--device,$(DEVICE)) $(call option,--seeds,$(SEEDS)) $(call option,--epochs,$(EPOCHS))
studies: $(OUT)/q1_data.json $(OUT)/q3_cnn.json $(TRANSFER) ## questions that a single run cannot answer, over several seeds
	$(PYTHON) -m studies.seeds $(STUDY) $(call option,--transfer-epochs,$(EPOCHS))
	$(PYTHON) -m studies.imbalance $(STUDY)
	$(PYTHON) -m studies.symmetry $(STUDY)
	$(PYTHON) -m studies.locality $(STUDY)
	$(if $(no_transfer),,$(PYTHON) -m studies.transfer $(STUDY))
	$(PYTHON) -m studies.calibration $(STUDY)
	$(PYTHON) -m studies.inside $(STUDY)

playground: $(OUT)/playground.html ## web page that runs the trained networks, for the classroom
$(OUT)/playground.html: $(wildcard use/playground.* use/trained.py) $(OUT)/q1_data.json $(OUT)/q2_fcn.json $(OUT)/q3_cnn.json
	$(PYTHON) -m use.playground --out '$(OUT)'
export: $(OUT)/model/config.json ## share the CNN: safetensors, ONNX and a model card
$(OUT)/model/config.json: export.py $(wildcard use/*.py use/*.j2) $(OUT)/q3_cnn.json | $(call installed,requirements-extra)
	$(PYTHON) export.py --model '$(OUT)/q3_cnn.pt' --to '$(OUT)/model'
notebook: $(call installed,requirements-teaching) $(if $(DATA),,$(OUT)/q1_data.json) ## run the notebook to hand in: artifacts/submission.ipynb and .html
	$(PYTHON) -m course.build submission $(COMMON) $(call option,--data,$(DATA)) $(call option,--epochs,$(EPOCHS))
skeleton: $(call installed,requirements-teaching) ## the students' notebook, with the solutions cleared
	$(PYTHON) -m course.build skeleton --out '$(OUT)'
course: $(call installed,requirements-teaching) ## nbgrader course to release, collect and grade: docs/teaching.md
	$(PYTHON) -m course.build course --out '$(OUT)'

.venv/bin/python:
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: python3 is older than 3.11")'
	python3 -m venv --clear .venv
.venv/%.installed: %.txt $(wildcard requirements*.txt) .venv/bin/python
	PIP_USER=0 .venv/bin/python -m pip install --quiet --requirement $< && touch $@

# Two processes with one thread each; with more, their threads would wait for each other.
test: $(call installed,requirements-dev) ## run all tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder tests
lint: $(call installed,requirements-dev) ## lint and format check (ruff)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
smoke: ## run all questions on a small synthetic set, in about a minute
	@rm -rf smoke
	@$(MAKE) --no-print-directory all OUT=smoke SOURCE=synthetic COUNT=1000 EPOCHS=2
bench: $(call installed,requirements) ## time this project against the baseline; print a table
	$(PYTHON) -m benchmarks.bench --out '$(OUT)' --device '$(DEVICE)'

# The oldest supported Python that is installed, with the lowest versions that the requirements allow.
.venv-oldest/constraints.txt: $(wildcard requirements*.txt)
	$(firstword $(wildcard ~/.pyenv/versions/3.11.*/bin/python /usr/bin/python3.1[123]) python3) -m venv --clear .venv-oldest
	sed -n 's/>=/==/p' $^ > $@
	PIP_USER=0 .venv-oldest/bin/python -m pip install --quiet --requirement requirements-dev.txt --constraint $@
test-oldest: .venv-oldest/constraints.txt ## run all tests with the oldest supported Python and packages
	@$(MAKE) --no-print-directory lint test PYTHON=.venv-oldest/bin/python

clean: ## remove all results, but not .venv
	rm -rf smoke $(addprefix $(OUT)/,synthetic.h5 .synthetic.* q[0-9]_*.pt q[0-9]_*.png q[0-9]_*.json .q[0-9]_* summary.txt \
	    submission.* skeleton.ipynb playground.html benchmarks $(addprefix model/,model.safetensors model.onnx config.json README.md))
	@-rmdir '$(OUT)/model' '$(OUT)' 2> /dev/null || true
help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 20
	@echo 'Variables, as in make all SEED=1 EPOCHS=10:'
	@sed -n 's/^\([A-Z_]*\) *= *\(.*\)## /  \1 = \2	/p' Makefile | expand -t 34
