#!/usr/bin/env bash
# The table on photographs on a GPU that is lent by the minute (docs/performance.md, On a GPU). From the root:
#   make faces-pack FACES=folder YUNET=file     where the photographs are: one archive of what is needed, ARCHIVE
#   make bench-gpu-faces                        where the GPU is: unpack, train, evaluate. A second run goes on.
# examples/real_faces.sh does the work. Its students follow the recommended recipe for 100 epochs, three X, all kinds of
# one seed before the next. LIMIT_S seconds after the start training ends behind a step, and what is trained is evaluated.
#   ARCHIVE  runs/faces-archive/faces.tar    STATE  folder for labels, weights and tables, in parts of 15 MB; what it
#   holds at the start is taken up, so that another machine goes on where the last one ended
#   SMALL=1  few people and steps, to try it; DEVICE=cpu runs without a GPU
set -euo pipefail
ARCHIVE=${ARCHIVE:-runs/faces-archive/faces.tar}
STATE=${STATE:-runs/faces-state}
LIMIT_S=${LIMIT_S:-86400}
KEPT=(.done labels.pkl aikd-last.pth aikd-last.json metrics.jsonl config.yaml resume.pt '*.csv' '*.md')

# pack: the first four photographs of each person of folds.csv, which are those that real_faces.sh takes, and the rest.
pack() {
    : "${FACES:?name the folder of the photographs: make faces-pack FACES=folder YUNET=file}"
    : "${YUNET:?name the file of the detector: make faces-pack FACES=folder YUNET=file}"
    local list
    list=$(mktemp)
    mkdir -p "$(dirname "$ARCHIVE")"
    (cd "$FACES" && find images -name '*.jpg' | LC_ALL=C sort) | awk -F'[,/]' '
        NR == FNR { sub(/\r/, ""); known[$1]; next }
        $2 in known && seen[$2]++ < 4
    ' "$FACES/folds.csv" - >"$list"
    (cd "$FACES" && ls landmarks.csv folds.csv labels_lightqnet.csv mobilefacenet_y1.* edgeface_xxs.*) >>"$list"
    tar -C "$FACES" -T "$list" -cf "$ARCHIVE"
    tar -C "$(dirname "$YUNET")" --transform 's|.*|yunet.onnx|' -rf "$ARCHIVE" "$(basename "$YUNET")"
    rm "$list"
    echo "$ARCHIVE: $(tar -tf "$ARCHIVE" | grep -c '\.jpg$') photographs, $(($(stat -c %s "$ARCHIVE") / 1000000)) MB"
}

# save: write labels, weights and tables to STATE, the resume point of a run that has not ended too.
save() {
    local -a names=()
    for name in "${KEPT[@]}"; do names+=(-o -name "$name"); done
    rm -rf "$STATE.new"
    mkdir -p "$STATE.new"
    find runs/faces -mindepth 2 -maxdepth 3 -type f \( "${names[@]:1}" \) \
        -not -path 'runs/faces/people/*' -not -path 'runs/faces/train/*' -not -path 'runs/faces/selection/*' \
        -not -path 'runs/faces/test/*' -not -path 'runs/faces/detected/*' |
        while read -r file; do
            case $file in */resume.pt) [ ! -e "$(dirname "$file")/.done" ] || continue ;; esac
            echo "$file"
        done | tar -T - -cf - | split -b 15M - "$STATE.new/faces.tar."
    rm -rf "$STATE"
    mv "$STATE.new" "$STATE"
    echo "$STATE: $(du -sm "$STATE" | cut -f1) MB, to go on from"
}

run() {
    local began=$SECONDS given=runs/faces-given code=0 python
    if [ ! -e "$ARCHIVE" ]; then
        echo "error: $ARCHIVE: not there; make faces-pack FACES=folder YUNET=file writes it" >&2
        exit 2
    fi
    if [ ! -e $given/.done ]; then
        mkdir -p $given
        tar -C $given -xf "$ARCHIVE"
        touch $given/.done
    fi
    if compgen -G "$STATE/faces.tar.*" >/dev/null && [ ! -e runs/faces ]; then
        cat "$STATE"/faces.tar.* | tar -xf -
    fi
    mapfile -t python < <(benchmarks/with_torch.sh -c \
        'import os, sys; print(sys.executable); print(os.environ.get("PYTHONPATH", ""))')
    [ "${#python[@]}" = 2 ] || exit 2
    export PY=${python[0]} PYTHONPATH=${python[1]} FACES=$given YUNET=$given/yunet.onnx DEVICE=${DEVICE:-cuda:0}
    export SEEDS=${SEEDS:-1 2 3} EDGEFACE=${EDGEFACE:-1} EXTRA=${EXTRA:-} EVALUATE=${EVALUATE:-}
    export STUDENTS="base.epochs=100 scheduler.milestones=[65,90] loss.ranking=1 dataloader.train.params.num_workers=$(nproc)"
    if [ -n "${SMALL:-}" ]; then
        export LIMIT=${LIMIT:-12} SEEDS=1 STUDENTS='base.epochs=1 scheduler.milestones=[0.5,0.8]' EXTRA='base.max_steps=2'
        EVALUATE="evaluation.bootstrap=50 evaluation.fmr=0.01 $EVALUATE"
    fi
    if [ "$EDGEFACE" != 0 ] && ! "$PY" -c 'import timm' 2>/dev/null; then
        EDGEFACE=0
    fi
    SOURCES=${SOURCES:-ser_fiq magnitude lightqnet} timeout "$LIMIT_S" examples/real_faces.sh || code=$?
    case $code in
        0) ;;
        124 | 143)
            printf '\n== no time is left for training (%s s): what is trained is compared\n' $((SECONDS - began))
            save
            SOURCES=' ' examples/real_faces.sh
            ;;
        *) save; exit $code ;;
    esac
    save
}

case ${1:-} in
    pack | run) "$1" ;;
    *) echo 'usage: examples/faces_gpu.sh pack | run' >&2; exit 2 ;;
esac
