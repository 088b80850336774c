#!/usr/bin/env bash
# AI-KD(X) for three more label sources X, on the demo's people and with its teacher, and the recipes of DifFIQA(R) and
# eDifFIQA on the labels of the first: make sources, or this script from the root of the repository after make demo.
# Commands in a row; one that is done is skipped, so an interrupted run goes on. One more X: its labels and students
# here, its configs/sources/label_X.yaml, its lines in configs/sources/evaluate.yaml.
set -euo pipefail
PY=${PY:-.venv/bin/python}
DEMO=runs/demo
SOURCES=runs/sources

# step FOLDER TITLE INPUT... -- COMMAND...: run the command unless FOLDER/.done is newer than every input.
step() {
    local folder=$1 title=$2 stale=
    shift 2
    [ -e "$folder/.done" ] || stale=yes
    while [ "$1" != -- ]; do
        if [ "$1" -nt "$folder/.done" ]; then stale=yes; fi
        shift
    done
    shift
    [ -n "$stale" ] || return 0
    printf '\n== %s\n' "$title"
    "$@"
    mkdir -p "$folder"
    touch "$folder/.done"
}

# label X INPUT...: label the training faces by X.
label() {
    step "$SOURCES/$1/labels" "label the training faces: X = $1" "configs/sources/label_$1.yaml" "${@:2}" -- \
        "$PY" label.py -c "configs/sources/label_$1.yaml"
}

# student X NAME CHANGE...: train a student on the labels of X, by the demo's recipe with these changes.
student() {
    step "$SOURCES/$1/$2" "train a student: $1/$2" \
        configs/demo/aikd.yaml configs/demo/student.yaml "$SOURCES/$1/labels/.done" -- \
        "$PY" train_main.py -c configs/demo/aikd.yaml base.save_path="$SOURCES/$1/$2" \
        dataset.quality_location="$SOURCES/$1/labels/labels.pkl" "${@:3}"
}

# recipe X NAME MODEL CHANGE...: train by configs/NAME_config.yaml on the labels of X, as many epochs as the students.
recipe() {
    step "$SOURCES/$1/$2" "train by the recipe of $2 on the labels of $1" \
        "configs/$2_config.yaml" "$3" "$SOURCES/$1/labels/.done" -- \
        "$PY" train_main.py -c "configs/$2_config.yaml" base.save_path="$SOURCES/$1/$2" base.device=cpu base.amp=0 \
        base.epochs=3 base.validate_every=1 base.resume=auto dataset.image_location=$DEMO/faces/train \
        dataset.landms_location=$DEMO/faces/train/landmarks.csv \
        dataset.quality_location="$SOURCES/$1/labels/labels.pkl" dataset.val_percent=0.02 \
        dataloader.train.params.num_workers=0 dataloader.val.params.num_workers=0 \
        model.config="$3" model.teacher_cache=$DEMO/teacher_cache optimizer.group_2.limit=null "${@:4}"
}

evaluate() {
    "$PY" evaluate.py -c configs/sources/evaluate.yaml >/dev/null
}

PLAIN=(dataset.misalign=0 'loss.weights=[0, 1]')
REFINED=('loss.refinement={theta: 0.5, epsilon: 0.5, min_images: 2}' 'loss.weights=[2, 2]')

step "$SOURCES/cr_fiqa/network" 'train CR-FIQA' \
    configs/sources/crfiqa.yaml configs/sources/crfiqa_network.yaml "$DEMO/faces/.done" -- \
    "$PY" train_main.py -c configs/sources/crfiqa.yaml

label cr_fiqa "$SOURCES/cr_fiqa/network/.done" "$DEMO/teacher/.done"
student cr_fiqa aikd
student cr_fiqa plain "${PLAIN[@]}"
student cr_fiqa refined "${REFINED[@]}"
recipe cr_fiqa diffiqar configs/sources/diffiqar_student.yaml
recipe cr_fiqa ediffiqa configs/demo/student.yaml loss.refinement.min_images=2   # an identity has 12 images here

label sdd_fiqa "$DEMO/teacher/.done"
student sdd_fiqa aikd
student sdd_fiqa plain "${PLAIN[@]}"

label magnitude "$DEMO/teacher/.done"
student magnitude aikd
student magnitude plain "${PLAIN[@]}"

step "$SOURCES/evaluation" 'compare each X, its plain student and AI-KD(X) on people nobody was trained on' \
    configs/sources/evaluate.yaml "$SOURCES"/*/{aikd,plain,refined,diffiqar,ediffiqa}/.done -- evaluate

cat "$SOURCES/evaluation/summary.md"
cat <<END

Look at:
  $SOURCES/evaluation/report.html      curves, tables and examples on one page
  $SOURCES/evaluation/differences.csv  every difference with its interval
  $SOURCES/evaluation/nuisance.csv     medians of the scores from clean to strong nuisance
END
