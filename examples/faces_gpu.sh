#!/usr/bin/env bash
# The table on photographs on a GPU that is lent by the minute (docs/performance.md, On a GPU). From the root:
#   make faces-pack FACES=folder YUNET=file     where the photographs are: one archive of what is needed, ARCHIVE
#   make bench-gpu-faces                        where the GPU is: unpack, train, evaluate. A second run goes on.
# examples/real_faces.sh does the work. Its students follow the recommended recipe for 100 epochs, three X, all kinds of
# one seed before the next. LIMIT_S seconds after the start training ends behind a step, and what is trained is evaluated.
#   ARCHIVE  runs/faces-archive/faces.tar.gz
#   STATE    runs/faces-state, written at the end and every SAVE_S seconds, so that a cut at any moment leaves it:
#            go-on.tar: labels, what is done; resume-X-KIND-SEED.tar: the resume point of a run that has not ended;
#            X-KIND-SEED.tar: one trained student; tables.tar. What it holds at the start is taken up where runs/faces is
#            not there: another machine goes on with ARCHIVE, go-on.tar and the resume points, and compares the students
#            whose files are in STATE.
#   JOBS     students trained beside one another: 3 (default: the three kinds of one X and seed); on a CPU 1
#   SMALL=1  few people and steps, to try it; DEVICE=cpu runs without a GPU. STUDENTS, EXTRA, SOURCES and SEEDS as in
#            examples/real_faces.sh
set -euo pipefail
ARCHIVE=${ARCHIVE:-runs/faces-archive/faces.tar.gz}
STATE=${STATE:-runs/faces-state}
LIMIT_S=${LIMIT_S:-86400}
SAVE_S=${SAVE_S:-60}
TRAINED=runs/faces/recommended

# pack: the photographs that real_faces.sh takes, up to four of each person, and the rest. Folds 0 to 2 are trained on;
# in the others a person with one photograph has no mated pair.
pack() {
    : "${FACES:?name the folder of the photographs: make faces-pack FACES=folder YUNET=file}"
    : "${YUNET:?name the file of the detector: make faces-pack FACES=folder YUNET=file}"
    local list
    list=$(mktemp)
    mkdir -p "$(dirname "$ARCHIVE")"
    (cd "$FACES" && find images -name '*.jpg' | LC_ALL=C sort) >"$list.all"
    awk -F'[,/]' '
        FNR == 1 { part++ }
        part == 1 { sub(/\r/, ""); fold[$1] = $2; next }
        part == 2 { images[$2]++; next }
        $2 in fold && (fold[$2] < 3 || images[$2] > 1) && seen[$2]++ < 4
    ' "$FACES/folds.csv" "$list.all" "$list.all" >"$list"
    (cd "$FACES" && ls landmarks.csv folds.csv labels_lightqnet.csv mobilefacenet_y1.* edgeface_xxs.*) >>"$list"
    tar -C "$FACES" -T "$list" -cf "$list.tar"
    tar -C "$(dirname "$YUNET")" --transform 's|.*|yunet.onnx|' -rf "$list.tar" "$(basename "$YUNET")"
    gzip -c "$list.tar" >"$ARCHIVE"
    rm "$list" "$list.all" "$list.tar"
    echo "$ARCHIVE: $(tar -tf "$ARCHIVE" | grep -c '\.jpg$') photographs, $(($(stat -c %s "$ARCHIVE") / 1000000)) MB"
}

# keep NAME: write the files that standard input names to STATE/NAME.tar, whole or not at all.
keep() {
    local part=$STATE/$1.$BASHPID.tmp code=0
    tar -T - -cf "$part" || code=$?
    [ "$code" -le 1 ] || return "$code"   # 1: a log grew meanwhile
    mv "$part" "$STATE/$1.tar"
}

# name_of FOLDER: print X-KIND-SEED of a student.
name_of() {
    echo "$(basename "$(dirname "$1")")-$(basename "$1")"
}

# save: write to STATE what another run needs to go on, every student that is trained, and the tables. A student that
# ends meanwhile counts as one that has not, and a resume point goes only when go-on.tar says that its run has ended.
save() {
    local file folder begun ended
    mkdir -p "$STATE"
    begun=$(printf '%s\n' $TRAINED/*/*/resume.pt)
    ended=$(printf '%s\n' $TRAINED/*/*/.done)
    for file in $ended; do
        folder=$(dirname "$file")
        [ -e "$folder/aikd-last.pth" ] && [ ! -e "$STATE/$(name_of "$folder").tar" ] || continue
        printf '%s\n' "$folder"/{aikd-last.pth,aikd-last.json,config.yaml,metrics.jsonl,.done} | keep "$(name_of "$folder")"
    done
    for file in $begun; do
        folder=$(dirname "$file")
        grep -qxF "$folder/.done" <<<"$ended" && continue   # the resume point before the log, which it must not be ahead of
        printf '%s\n' "$folder"/{resume.pt,config.yaml,metrics.jsonl} | keep "resume-$(name_of "$folder")"
    done
    printf '%s\n' runs/faces/*/labels/{.done,labels.pkl} $ended | keep go-on
    for file in $ended; do
        rm -f "$STATE/resume-$(name_of "$(dirname "$file")").tar"
    done
    if [ -e $TRAINED/evaluation/summary.md ]; then
        find $TRAINED/evaluation -maxdepth 1 '(' -name '*.csv' -o -name '*.md' ')' | keep tables
    fi
}

# take_up: unpack what STATE holds.
take_up() {
    local file
    for file in "$STATE"/*.tar; do
        tar -xf "$file" || {
            echo "error: $file: cannot be read whole; copy it again, or remove it to go on without" >&2
            exit 2
        }
    done
}

# train SECONDS: run real_faces.sh until it ends or the time is over; pass SIGTERM on, and wait for its end.
train() {
    local training code
    timeout "$1" examples/real_faces.sh &
    training=$!
    trap 'asked=1; kill -TERM '$training' 2>/dev/null || true' TERM INT
    while :; do
        code=0
        wait $training || code=$?
        kill -0 $training 2>/dev/null || return $code
    done
}

# save_in_turns: save every SAVE_S seconds until SIGTERM, or until the script is gone; a save that has begun is finished.
save_in_turns() {
    trap 'kill $! 2>/dev/null; exit' TERM
    while sleep "$SAVE_S" >/dev/null 2>&1 & wait $! && kill -0 $$ 2>/dev/null; do
        save
    done
}

# end_with CODE: save for the last time, say what there is to bring along.
end_with() {
    kill $saver 2>/dev/null || true
    wait $saver 2>/dev/null || true
    rm -f "$STATE"/*.tmp
    save
    (cd "$STATE" && echo "$STATE, to go on from:" && du -m --apparent-size -- *.tar | sed 's/\t/ MB  /')
    exit "$1"
}

run() {
    local given=runs/faces-given code=0 python asked= left workers
    if [ ! -e "$ARCHIVE" ]; then
        echo "error: $ARCHIVE: not there; make faces-pack FACES=folder YUNET=file writes it" >&2
        exit 2
    fi
    if [ ! -e $given/.done ]; then
        mkdir -p $given
        tar -C $given -xf "$ARCHIVE"
        touch $given/.done
    fi
    shopt -s nullglob
    [ -e runs/faces ] || take_up
    mapfile -t python < <(benchmarks/with_torch.sh -c \
        'import os, sys; print(sys.executable); print(os.environ.get("PYTHONPATH", ""))')
    [ "${#python[@]}" = 2 ] || exit 2
    export PY=${python[0]} PYTHONPATH=${python[1]} FACES=$given YUNET=$given/yunet.onnx DEVICE=${DEVICE:-cuda:0}
    export RECIPE=recommended EDGEFACE=${EDGEFACE:-1} EVALUATE=${EVALUATE:-} SOURCES=${SOURCES:-ser_fiq magnitude lightqnet}
    if [ -n "${SMALL:-}" ]; then
        export LIMIT=${LIMIT:-12} SEEDS=${SEEDS:-1} EXTRA=${EXTRA:-base.max_steps=2}
        STUDENTS=${STUDENTS:-base.epochs=1 scheduler.milestones=[0.5,0.8]}
        EVALUATE="evaluation.bootstrap=50 evaluation.fmr=0.01 $EVALUATE"
    fi
    export SEEDS=${SEEDS:-1 2 3} EXTRA=${EXTRA:-}
    export JOBS=${JOBS:-$([ "$DEVICE" = cpu ] && echo 1 || echo 3)}
    workers=$(($(nproc) / JOBS))
    export STUDENTS=${STUDENTS:-base.epochs=100 scheduler.milestones=[65,90] dataloader.train.params.num_workers=$((workers > 1 ? workers : 1))}
    if [ "$EDGEFACE" != 0 ] && ! "$PY" -c 'import timm' 2>/dev/null; then
        EDGEFACE=0
    fi
    save_in_turns &
    saver=$!
    left=$((LIMIT_S - SECONDS))
    train $((left > 1 ? left : 1)) || code=$?
    if [ -n "$asked" ]; then
        end_with 143
    elif [ $code = 124 ]; then
        printf '\n== no time is left for training (%s s): what is trained is compared\n' $SECONDS
        save
        SOURCES=' ' examples/real_faces.sh
    elif [ $code != 0 ]; then
        end_with $code
    fi
    end_with 0
}

case ${1:-} in
    pack | run) "$1" ;;
    *) echo 'usage: examples/faces_gpu.sh pack | run' >&2; exit 2 ;;
esac
