# Each target is one file. A question's JSON is written last, so the JSON is what says it is done.

PYTHON         = .venv/bin/python## set it to use your own Python; installs nothing
OUT            = artifacts## folder for all results
DATA           =## HDF5 file in Galaxy10's form (cutouts.py makes one of your pictures); empty: see SOURCE
HOLD_BACK      =## classes for Q5, as 8,9 or names, or none; empty: 8,9 of Galaxy10, else none
SOURCE         = auto## auto, real or synthetic
DATASET        = sdss## the real set to download without DATA: sdss or decals
COUNT          =## images in a synthetic set; empty: as many as Galaxy10 SDSS has
SPLIT          = auto## stratified by class and seed, or file for the file's order; auto: the file's dataset split, or else stratified
SEED           = 0## random seed
EPOCHS         =## of all three training runs; empty: the assignment's 50, 50 and 20
MAIN_TRAIN     =## training images of classes 0-7; empty: 18000
TRANSFER_TRAIN =## training images of classes 8 and 9; empty: 1000
DEVICE         = auto## auto, cpu, cuda or mps; auto also accepts results of another device
CALIBRATE      =## fraction of Q3's training images to fit a temperature on, such as 0.1; empty: none
PRECISION      = float32## float32 or bf16; bf16 is slow on CPUs without bf16 instructions

# Not every shell expands ~ after =. (The scripts do: so DATA stays as it is.)
home = $(patsubst ~,$(HOME),$(patsubst ~/%,$(HOME)/%,$(1)))
override OUT := $(call home,$(OUT))
override PYTHON := $(call home,$(PYTHON))
# Names with a space cannot be targets, and an empty one would let `make clean` reach for /.
ifneq ($(words $(OUT))$(findstring ',$(OUT))$(filter ~%,$(OUT)),1)
$(error OUT='$(OUT)' must name one folder, without spaces and quotes, and without ~ but for your own home)
endif

.DELETE_ON_ERROR:
# No two training runs at once, whatever -j says: torch uses all cores by itself, and two runs that wait for each
# other's threads were measured to take ten times as long (2 cores).
.NOTPARALLEL:
.PHONY: all data fcn cnn confusion transfer test test-oldest lint smoke bench bench-scale notebook skeleton course playground export clean help FORCE

all: $(OUT)/summary.txt ## answer all five questions and print a table
data: $(OUT)/q1_data.json ## Q1: read, show, split and measure the galaxies
fcn: $(OUT)/q2_fcn.json ## Q2: train the fully connected network
cnn: $(OUT)/q3_cnn.json ## Q3: train the convolutional network
confusion: $(OUT)/q4_confusion.json ## Q4: what the two networks confuse
transfer: $(OUT)/q5_transfer.json ## Q5: transfer the CNN's backbone to two new classes

# make creates the environment of the default PYTHON only.
ifeq ($(PYTHON),.venv/bin/python)
ENVIRONMENT     = .venv/requirements.installed
DEV_ENVIRONMENT = .venv/requirements-dev.installed
TEACHING        = .venv/requirements-teaching.installed
else ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),all)),)
# With another PYTHON, packages that are missing or too old are named before anything runs.
UNMET := $(shell $(PYTHON) -m common.storage.packages requirements.txt $(if $(filter test lint,$(MAKECMDGOALS)),requirements-dev.txt) \
    $(if $(filter notebook skeleton course,$(MAKECMDGOALS)),requirements-teaching.txt))
$(if $(UNMET),$(error $(UNMET)))
endif

# The options of the scripts. `quote` makes any value one word of the shell.
quote  = '$(subst ','\'',$(1))'
option = $(if $(strip $(2)),$(1) $(call quote,$(2)))
galaxies = $(if $(DATA),--data $(call quote,$(DATA)),--source '$(SOURCE)' --dataset '$(DATASET)' $(call option,--count,$(COUNT))) \
    $(call option,--hold-back,$(HOLD_BACK)) --split '$(SPLIT)' \
    $(call option,--main-train,$(MAIN_TRAIN)) $(call option,--transfer-train,$(TRANSFER_TRAIN))
training = --device '$(DEVICE)' --precision '$(PRECISION)' $(call option,--epochs,$(EPOCHS))
Q1 = --out '$(OUT)' --seed '$(SEED)' $(galaxies)
Q4 = --out '$(OUT)' --device '$(DEVICE)'
TRAIN = --out '$(OUT)' --seed '$(SEED)' $(training)
Q3 = $(TRAIN) $(call option,--calibrate,$(CALIBRATE))

# A question runs again when its script, a file of common/ or an artifact that it reads is newer than its JSON. It also
# runs again when common/storage/stale.py finds that its JSON has other options than the variables here, that one of its
# files is missing, or that DATA is newer. Where that cannot be checked, make stops: an old result must not pass for a
# new one.
CODE    = $(wildcard common/*.py common/*/*.py)
check   = p='$(PYTHON)'; command -v "$$p" > /dev/null || p=python3; "$$p" -S -m common.storage.stale $(1) || echo FAILED
reasons = $(if $(filter help clean,$(MAKECMDGOALS)),,$(if $(wildcard $(OUT)/$(firstword $(1)).json),$(shell $(check))))
failed  = $(error Cannot check whether $(OUT) is up to date, see above: fix PYTHON, or run make clean)
stale   = $(call judge,$(call reasons,$(1)))
judge   = $(if $(findstring FAILED,$(1)),$(failed),$(if $(1),FORCE))

# An interrupted training resumes: its state is then newer than everything it depends on and than its JSON.
state  = $(@:.json=.resume.pt)
resume = $(if $(wildcard $(state)),$(if $(shell find $(filter-out FORCE,$^) $(wildcard $@) -newer $(state)),,--resume=if-same))

# Without classes held back make ends after Q4: by Q1's record, as soon as that is made.
no_transfer = $(shell grep -ls '"transfer_train": \[\]' '$(OUT)/q1_data.json')
no_q5 = @echo 'No classes are held back (HOLD_BACK), so make ends after Q4.'
Q1_STALE := $(call stale,q1_data $(Q1))
TRANSFER := $(if $(Q1_STALE),$(OUT)/q5_transfer.json,$(if $(no_transfer),,$(OUT)/q5_transfer.json))

$(OUT)/q1_data.json: q1_data.py $(CODE) $(Q1_STALE) | $(ENVIRONMENT)
	$(PYTHON) q1_data.py $(Q1)
$(OUT)/q2_fcn.json: q2_fcn.py $(CODE) $(OUT)/q1_data.json $(call stale,q2_fcn $(TRAIN)) | $(ENVIRONMENT)
	$(PYTHON) q2_fcn.py $(TRAIN) $(resume)
$(OUT)/q3_cnn.json: q3_cnn.py $(CODE) $(OUT)/q1_data.json $(OUT)/q2_fcn.json $(call stale,q3_cnn $(Q3)) | $(ENVIRONMENT)
	$(PYTHON) q3_cnn.py $(Q3) $(resume)
$(OUT)/q4_confusion.json: q4_confusion.py $(CODE) $(OUT)/q1_data.json $(OUT)/q2_fcn.json $(OUT)/q3_cnn.json $(call stale,q4_confusion $(Q4)) | $(ENVIRONMENT)
	$(PYTHON) q4_confusion.py $(Q4)
$(OUT)/q5_transfer.json: q5_transfer.py $(CODE) $(OUT)/q1_data.json $(OUT)/q3_cnn.json $(call stale,q5_transfer $(TRAIN)) | $(ENVIRONMENT)
	$(if $(and $(no_transfer),$(filter-out transfer,$(or $(MAKECMDGOALS),all))),$(no_q5),$(PYTHON) q5_transfer.py $(TRAIN) $(resume))
$(OUT)/summary.txt: summary.py $(CODE) $(patsubst %,$(OUT)/%.json,q1_data q2_fcn q3_cnn q4_confusion) $(TRANSFER)
	$(PYTHON) summary.py --out '$(OUT)'

.PHONY: studies
SEEDS          =## of the studies, such as 0-4 or 3; empty: 0-4
# A study only collects those of its results that are there already, of the same data and settings: so it always runs.
STUDY = --out '$(OUT)' --device '$(DEVICE)' $(call option,--seeds,$(SEEDS)) $(call option,--epochs,$(EPOCHS))
studies: $(OUT)/q1_data.json $(OUT)/q3_cnn.json $(TRANSFER) ## what a single run cannot answer, measured over seeds
	$(PYTHON) -m studies.seeds $(STUDY) $(call option,--transfer-epochs,$(EPOCHS))
	$(PYTHON) -m studies.imbalance $(STUDY)
	$(PYTHON) -m studies.symmetry $(STUDY)
	$(if $(no_transfer),,$(PYTHON) -m studies.transfer $(STUDY))
	$(PYTHON) -m studies.calibration $(STUDY)
	$(PYTHON) -m studies.inside $(STUDY)

needs = { echo 'error: $(1)' >&2; exit 2; }

.venv/requirements.installed: requirements.txt
	@command -v python3 > /dev/null || $(call needs,there is no python3 here: install Python 3.10 or newer)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || $(call needs,python3 is older than 3.10)
	@python3 -c 'import ensurepip, venv' 2> /dev/null \
	    || $(call needs,python3 lacks venv: install the package python3-venv (Debian and Ubuntu: apt install python3-venv))
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@
.venv/requirements-%.installed: requirements-%.txt .venv/requirements.installed
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@

# The oldest Python at hand that the project takes, with exactly the lowest versions that the requirements allow.
OLDEST_PYTHON = $(shell for python in python3.10 ~/.pyenv/versions/3.10.*/bin/python python3.11 python3.12 python3; do \
    $$python -c 'import ensurepip, venv' 2> /dev/null && echo $$python && break; done)
ALL_REQUIREMENTS = requirements.txt requirements-dev.txt requirements-extra.txt requirements-teaching.txt
.venv-oldest/requirements.installed: $(ALL_REQUIREMENTS)
	$(OLDEST_PYTHON) -m venv --clear .venv-oldest
	sed -n 's/>=/==/p' $^ > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet $(ALL_REQUIREMENTS:%=--requirement %) --constraint .venv-oldest/constraints.txt
	@touch $@

# In two processes with one thread each, so that none waits for another's threads. OMP_NUM_THREADS=2 make test runs the
# same tests with two threads in each.
test: $(DEV_ENVIRONMENT) ## all tests
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTHON) -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder tests
test-oldest: .venv-oldest/requirements.installed ## all tests with the oldest Python and packages that are allowed
	@.venv-oldest/bin/python --version
	@$(MAKE) --no-print-directory lint test PYTHON=.venv-oldest/bin/python
SOURCES = $(wildcard *.py) common studies use notebook benchmarks tests docs
lint: $(DEV_ENVIRONMENT) ## lint and format check (ruff)
	$(PYTHON) -m ruff check $(wildcard $(SOURCES))
	$(PYTHON) -m ruff format --check $(wildcard $(SOURCES))
smoke: ## the whole chain on a small synthetic set, in under a minute
	@rm -rf smoke
	@$(MAKE) --no-print-directory all OUT=smoke DATA= SOURCE=synthetic COUNT=1000 EPOCHS=2 IMAGE_SIZE= MAIN_TRAIN= TRANSFER_TRAIN= LABELS= ID= CLASS= SPLIT_COLUMN= HOLD_BACK=
# Without an HDF5 file as DATA the notebook runs on that of make data: the pictures of LABELS, Galaxy10 or its stand-in.
hdf5 = $(if $(LABELS),,$(DATA))
notebook: $(TEACHING) $(if $(hdf5),,$(OUT)/q1_data.json) ## the notebook that is handed in, run: artifacts/submission.ipynb and .html
	$(PYTHON) -m notebook.build submission --out '$(OUT)' --seed '$(SEED)' $(call option,--data,$(hdf5)) $(call option,--epochs,$(EPOCHS))
skeleton: $(TEACHING) ## what students get: the notebook with the solutions cleared
	$(PYTHON) -m notebook.build skeleton --out '$(OUT)'
course: $(TEACHING) ## a folder in which nbgrader hands out, collects and marks the assignment: docs/teaching.md
	$(PYTHON) -m notebook.build course --out '$(OUT)'
bench: $(ENVIRONMENT) ## time this project against the baseline
	$(PYTHON) -m benchmarks.bench --out '$(OUT)' --device '$(DEVICE)'
	$(PYTHON) -m benchmarks.pictures --out '$(OUT)'
	$(PYTHON) -m benchmarks.pieces
bench-scale: $(ENVIRONMENT) ## time and memory at 3,000, 30,000 and 300,000 images, and with Dask workers
	$(PYTHON) -m benchmarks.scale --out '$(OUT)' --device '$(DEVICE)'
	$(if $(ENVIRONMENT),$(PYTHON) -m pip install --quiet --requirement requirements-extra.txt)
	$(PYTHON) -m benchmarks.cluster --out '$(OUT)'

# What is done with the trained networks.
playground: $(OUT)/playground.html ## a page in which the trained networks run, for the classroom
$(OUT)/playground.html: $(wildcard use/playground.* use/trained.py) $(patsubst %,$(OUT)/%.json,q1_data q2_fcn q3_cnn)
	$(PYTHON) -m use.playground --out '$(OUT)'
export: $(OUT)/model/config.json ## the CNN for others: safetensors, ONNX and a model card
$(OUT)/model/config.json: export.py $(wildcard use/*.py use/*.j2) $(OUT)/q3_cnn.json
	$(if $(ENVIRONMENT),$(PYTHON) -m pip install --quiet --requirement requirements-extra.txt)
	$(PYTHON) export.py --model '$(OUT)/q3_cnn.pt' --to '$(OUT)/model'

clean: ## remove what the questions made, but not .venv
	rm -rf smoke $(OUT)/benchmarks $(OUT)/synthetic.h5 $(OUT)/.synthetic.* $(OUT)/q[1-5]_*.pt $(OUT)/q[1-5]_*.png $(OUT)/q[1-5]_*.json $(OUT)/summary.txt $(OUT)/submission.* $(OUT)/skeleton.ipynb $(OUT)/playground.html $(patsubst %,$(OUT)/model/%,model.safetensors model.onnx config.json README.md) $(OUT)/.q[1-5]_*
	@-rmdir "$(OUT)/model" "$(OUT)" 2> /dev/null || true
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 20
	@echo 'Variables, as in make all SEED=1 EPOCHS=10:'
	@sed -n 's/^\([A-Z_]*\) *= *\(.*\)## /  \1 = \2	/p' Makefile | expand -t 34
