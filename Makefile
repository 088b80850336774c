# make demo, make sources, make faces, make paper, make test, make bench: each builds .venv when it is missing or older
# than the list of dependencies. make bench-gpu uses the machine's own Python where that has torch: GPU machines often come with one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PY := $(BIN)/python
DEMO := runs/demo
STEP = @printf '\n== %s\n'

.PHONY: demo sources faces paper test fuzz lint types bench bench-gpu faces-search faces-pack bench-gpu-faces wheels clean

$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Threads that wait for one another sleep: spinning takes three times the processor time where other work runs beside.
demo sources faces faces-search paper: export OMP_WAIT_POLICY ?= passive

# The demo: commands of this repository in a row. A second run reuses what is there; an interrupted one goes on.
demo: $(DEMO)/evaluation/.done $(DEMO)/scores/.done
	@cat $(DEMO)/evaluation/summary.md
	@printf 'teacher, clean aligned pairs of unseen people: %s\n' "$$(grep -o '"accuracy": [0-9.]*' $(DEMO)/teacher/cosface-last.json)"
	@printf '\nLook at:\n'
	@printf '  %s\n' \
		'$(DEMO)/evaluation/report.html  curves, tables and examples on one page' \
		'$(DEMO)/faces/faces.png         the rendered people' \
		'$(DEMO)/aikd/curves.png         how AI-KD was trained; its weights lie beside it' \
		'$(DEMO)/scores/quality-scores.csv  scores of the test folder'

$(DEMO)/faces/.done: configs/demo/prepare.yaml | $(VENV)/.installed
	$(STEP) 'render people: one set to train on, one to choose on, one to test on'
	$(PY) prepare.py -c configs/demo/prepare.yaml
	@touch $@

$(DEMO)/teacher/.done: configs/demo/teacher.yaml configs/demo/network.yaml $(DEMO)/faces/.done
	$(STEP) 'train a CosFace teacher'
	$(PY) train_main.py -c configs/demo/teacher.yaml
	@touch $@

$(DEMO)/labels/.done: configs/demo/label.yaml configs/demo/labeller.yaml $(DEMO)/teacher/.done
	$(STEP) 'label the training faces: X = SER-FIQ'
	$(PY) label.py -c configs/demo/label.yaml
	@touch $@

$(DEMO)/aikd/.done: configs/demo/aikd.yaml configs/demo/student.yaml $(DEMO)/labels/.done
	$(STEP) 'train AI-KD(X)'
	$(PY) train_main.py -c configs/demo/aikd.yaml
	@touch $@

$(DEMO)/plain/.done: configs/demo/aikd.yaml configs/demo/student.yaml $(DEMO)/labels/.done
	$(STEP) 'train the control: plain regression on aligned crops, same budget'
	$(PY) train_main.py -c configs/demo/aikd.yaml base.save_path=$(DEMO)/plain dataset.misalign=0 'loss.weights=[0, 1]'
	@touch $@

$(DEMO)/evaluation/.done: configs/demo/evaluate.yaml $(DEMO)/aikd/.done $(DEMO)/plain/.done
	$(STEP) 'compare X, the control and AI-KD(X) on people nobody was trained on'
	$(PY) evaluate.py -c configs/demo/evaluate.yaml >/dev/null
	@touch $@

$(DEMO)/scores/.done: configs/demo/inference.yaml $(DEMO)/aikd/.done
	$(STEP) 'score the test folder'
	$(PY) inference.py -c configs/demo/inference.yaml
	@touch $@

# Three more label sources on the demo's people: each X beside its plain student and AI-KD(X). Resumable as the demo.
sources: $(DEMO)/faces/.done $(DEMO)/teacher/.done
	@PY=$(PY) examples/label_sources.sh

# The paper's experiment with what is in the folder DATA (docs/paper.md). SMALL=1: the small network, on a CPU, to try it;
# PAPER="key=value ..." changes configs/paper/paper.yaml.
DATA ?= data
paper: $(VENV)/.installed
	@$(PY) paper.py -c configs/paper/paper.yaml base.data='$(DATA)' \
		$(if $(SMALL),base.small=1 base.device=cpu base.num_workers=0) $(PAPER)

# The table on photographs: FACES=folder YUNET=file; what they hold stands at the head of the script. Resumable.
faces: export FACES := $(FACES)
faces: export YUNET := $(YUNET)
faces: $(VENV)/.installed
	@PY=$(PY) examples/real_faces.sh

# One change to its recipe each, on the people to choose on (docs/results.md); ONLY="long mixed" takes some.
faces-search: export FACES := $(FACES)
faces-search: export YUNET := $(YUNET)
faces-search: export ONLY := $(ONLY)
faces-search: $(VENV)/.installed
	@PY=$(PY) examples/faces_search.sh

# One process per core (four at most), one thread each.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# N mutated files of every kind (make test reads 20,000), and a kill of a long command for each 2,000; SEED=NUMBER
# repeats a run. What is read wrongly is kept in runs/fuzz.
N ?= 200000
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz $(N) $(SEED)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/basedpyright --pythonpath $(PY) --level error

# The figures of docs/performance.md, "Against the released code". OUT=FOLDER takes log.txt, results.json and results.md;
# ONLY="NAME ..." runs some of the scripts and keeps the other figures that OUT holds.
OUT ?= runs/bench
SUITE = -m benchmarks.suite --out $(OUT) $(if $(ONLY),--only $(ONLY)) $(if $(SECONDS),--seconds $(SECONDS))
bench: $(VENV)/.installed
	$(PY) $(SUITE)

# The set of a CUDA GPU, with the tests that need one; DEVICE=cpu SMALL=1 tries all of it on any machine.
DEVICE ?= cuda
bench-gpu:
	@PYTHON=$(PYTHON) VENV=$(VENV) benchmarks/with_torch.sh $(SUITE) --gpu --device $(DEVICE) $(if $(SMALL),--small)

# The table on photographs on a GPU, three X, 100 epochs: faces-pack where the photographs are (FACES, YUNET),
# bench-gpu-faces where the GPU is. It ends after LIMIT_S seconds of training, and a second run goes on.
faces-pack: export FACES := $(FACES)
faces-pack: export YUNET := $(YUNET)
faces-pack:
	@examples/faces_gpu.sh pack

bench-gpu-faces:
	@PYTHON=$(PYTHON) VENV=$(VENV) DEVICE=$(DEVICE) $(if $(SMALL),SMALL=1) $(if $(LIMIT_S),LIMIT_S=$(LIMIT_S)) exec examples/faces_gpu.sh run

# Wheels of what a GPU machine without a network may lack, into .wheels, which is ignored; with_torch.sh unpacks them
# there. GPU_PYTHON is that machine's Python, LACKS the packages.
GPU_PYTHON ?= 3.12
LACKS ?= pydantic
wheels:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --only-binary=:all: --dest .wheels \
		--python-version $(GPU_PYTHON) --implementation cp --platform manylinux2014_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 $(LACKS)
	@ls .wheels

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
