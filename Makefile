# Each target is one file. A question's JSON is written last, so the JSON is what says it is done.

PYTHON         = .venv/bin/python## another one is used as it is, and nothing is installed
OUT            = artifacts## folder of everything that is made
DATA           =## a Galaxy10 HDF5 file; empty: see SOURCE
SOURCE         = auto## auto, real or synthetic
COUNT          =## images of a synthetic set; empty: as many as Galaxy10 has
SEED           = 0## of all that is drawn at random
EPOCHS         =## of all three trainings; empty: the assignment's 50, 50 and 20
MAIN_TRAIN     =## training images of classes 0-7; empty: 18000
TRANSFER_TRAIN =## training images of classes 8 and 9; empty: 1000
DEVICE         = auto## auto, cpu, cuda or mps
PRECISION      = float32## float32, or bf16 for faster training where the processor has it
DATASET        = sdss## which real set is fetched without DATA: sdss or decals

.DELETE_ON_ERROR:
# One thing at a time, whatever -j says: torch uses all cores by itself, and two trainings that wait for one
# another's threads were measured to take ten times as long (2 cores).
.NOTPARALLEL:
.SECONDEXPANSION:
.PHONY: all data fcn cnn confusion transfer test lint smoke bench notebook playground export clean help FORCE

all: $(OUT)/summary.txt ## all five questions, and a table at the end
data: $(OUT)/q1_data.json ## Q1: read, look at, split and measure the galaxies
fcn: $(OUT)/q2_fcn.json ## Q2: train the fully connected network
cnn: $(OUT)/q3_cnn.json ## Q3: train the convolutional network
confusion: $(OUT)/q4_confusion.json ## Q4: what the two confuse
transfer: $(OUT)/q5_transfer.json ## Q5: the CNN's backbone on two new classes

# The environment that make looks after itself: only that of the default PYTHON.
ifeq ($(PYTHON),.venv/bin/python)
ENVIRONMENT     = .venv/requirements.installed
DEV_ENVIRONMENT = .venv/requirements-dev.installed
endif

# What each script is called with, and which modules it uses.
option  = $(if $(strip $(2)),$(1) '$(strip $(2))')
trained = --out '$(OUT)' --seed '$(SEED)' --device '$(DEVICE)' --precision '$(PRECISION)' $(call option,--epochs,$(EPOCHS))
sizes   = $(call option,--main-train,$(MAIN_TRAIN)) $(call option,--transfer-train,$(TRANSFER_TRAIN))
drawn   = --source '$(SOURCE)' --dataset '$(DATASET)' $(call option,--count,$(COUNT))
ARGS_q1_data      = --out '$(OUT)' --seed '$(SEED)' $(if $(DATA),--data '$(DATA)',$(drawn)) $(sizes)
ARGS_q2_fcn       = $(trained)
ARGS_q3_cnn       = $(trained)
ARGS_q4_confusion = --out '$(OUT)' --device '$(DEVICE)'
ARGS_q5_transfer  = $(trained)

modules = $(patsubst %,common/%.py,__init__ artifacts atomic cli data distributed galaxy10 plots resident split $(1))
USES_q1_data      = $(call modules,download hdf5 source synthetic)
USES_q2_fcn       = $(call modules,describe device graph metrics models report resume train)
USES_q3_cnn       = $(call modules,describe device graph metrics models report resume train)
USES_q4_confusion = $(call modules,checkpoint device graph metrics models train)
USES_q5_transfer  = $(call modules,checkpoint describe device graph metrics models report resume train)

# A training that was broken off goes on, if what it is made from has not changed since its last finished epoch.
resume = $(if $(wildcard $(OUT)/$(1).resume.pt),$(if $(shell find $(2) -newer $(OUT)/$(1).resume.pt),,--resume))

QUESTIONS = q1_data q2_fcn q3_cnn q4_confusion q5_transfer
# A question is asked again when its script, a module, its settings or what it reads has changed, or one
# of its files is gone.
gone = $(if $(filter-out $(wildcard $(OUT)/$(1).*),$(patsubst %,$(OUT)/$(1).%,png $(if $(filter q4%,$(1)),,pt))),FORCE)
$(QUESTIONS:%=$(OUT)/%.json): $(OUT)/%.json: %.py $$(USES_$$*) $(OUT)/.%.args $$(call gone,$$*) | $(ENVIRONMENT)
	$(PYTHON) $< $(ARGS_$*) $(call resume,$*,$(filter-out FORCE,$^))

$(OUT)/q1_data.json: $(wildcard $(DATA))
$(OUT)/q2_fcn.json: $(OUT)/q1_data.json
$(OUT)/q3_cnn.json: $(OUT)/q1_data.json $(OUT)/q2_fcn.json
$(OUT)/q4_confusion.json: $(OUT)/q1_data.json $(OUT)/q2_fcn.json $(OUT)/q3_cnn.json
$(OUT)/q5_transfer.json: $(OUT)/q1_data.json $(OUT)/q3_cnn.json
$(OUT)/summary.txt: summary.py $(patsubst %,common/%.py,artifacts atomic cli distributed describe discuss galaxy10 split) $(QUESTIONS:%=$(OUT)/%.json)
	$(PYTHON) summary.py --out '$(OUT)'

# The settings of the last call; the file changes only when they do.
$(OUT)/.%.args: $$(if $$(findstring [$$(ARGS_$$*)],[$$(shell cat '$(OUT)/.$$*.args' 2>/dev/null)]),,FORCE)
	@mkdir -p '$(OUT)'
	@printf '%s' "$(ARGS_$*)" > $@

needs = { echo 'error: $(1)' >&2; exit 2; }

.venv/requirements.installed: requirements.txt
	@command -v python3 > /dev/null || $(call needs,there is no python3 here: install Python 3.10 or newer)
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || $(call needs,python3 is older than 3.10)
	@python3 -c 'import ensurepip, venv' 2> /dev/null \
	    || $(call needs,python3 lacks venv: install the package python3-venv (Debian and Ubuntu: apt install python3-venv))
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@
.venv/requirements-dev.installed: requirements-dev.txt .venv/requirements.installed
	.venv/bin/python -m pip install --quiet --requirement $<
	@touch $@

test: $(DEV_ENVIRONMENT) ## all tests
	$(PYTHON) -m pytest -q tests
lint: $(DEV_ENVIRONMENT) ## what ruff says of the code and its layout
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
smoke: ## the whole chain on a small synthetic set, in under a minute
	@rm -rf smoke
	@$(MAKE) --no-print-directory all OUT=smoke DATA= SOURCE=synthetic COUNT=1000 EPOCHS=2 MAIN_TRAIN= TRANSFER_TRAIN=
notebook: $(ENVIRONMENT) ## the submission: one notebook that stands alone, and its page
	$(PYTHON) -m submission.build --out '$(OUT)' --seed '$(SEED)' $(if $(DATA),--data '$(DATA)',--source '$(SOURCE)') \
	    $(call option,--count,$(COUNT)) $(call option,--epochs,$(EPOCHS)) $(sizes)
bench: $(ENVIRONMENT) ## how fast all this is against the usual way
	$(PYTHON) -m benchmarks.bench --out '$(OUT)' --device '$(DEVICE)'
	$(PYTHON) -m benchmarks.pictures --out '$(OUT)'

# What is done with the trained networks.
playground: $(OUT)/playground.html ## a page in which the trained networks run, for a class room
$(OUT)/playground.html: $(wildcard use/playground.* use/answer.py use/trained.py) $(patsubst %,$(OUT)/%.json,q1_data q2_fcn q3_cnn)
	$(PYTHON) -m use.playground --out '$(OUT)'
export: $(OUT)/model/config.json ## the CNN for others: safetensors, ONNX and a model card
$(OUT)/model/config.json: export.py $(wildcard use/*.py use/*.j2) $(OUT)/q3_cnn.json
	$(if $(ENVIRONMENT),$(PYTHON) -m pip install --quiet --requirement requirements-extra.txt)
	$(PYTHON) export.py --model '$(OUT)/q3_cnn.pt' --to '$(OUT)/model'

clean: ## remove what the questions made, but not .venv
	rm -rf smoke $(OUT)/benchmarks $(OUT)/q[1-5]_*.pt $(OUT)/q[1-5]_*.png $(OUT)/q[1-5]_*.json $(OUT)/summary.txt $(OUT)/submission.* $(OUT)/playground.html $(patsubst %,$(OUT)/model/%,model.safetensors model.onnx config.json README.md) $(OUT)/.q[1-5]_*
	@-rmdir "$(OUT)/model" "$(OUT)" 2> /dev/null || true
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 20
	@echo 'Variables, as in make all SEED=1 EPOCHS=10:'
	@sed -n 's/^\([A-Z_]*\) *= *\(.*\)## /  \1 = \2	/p' Makefile | expand -t 34
