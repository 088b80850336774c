# What real_faces.sh and faces_search.sh share: the folders given, and the commands of one step each.
set -euo pipefail
PY=${PY:-.venv/bin/python}
EXTRA=${EXTRA:-}
DEVICE=${DEVICE:-cpu}
EDGEFACE=${EDGEFACE:-1}
OUT=runs/faces
GIVEN=$OUT/photographs
: "${FACES:?name the folder of the photographs: make faces FACES=folder YUNET=file}"
: "${YUNET:?name the file of the detector: make faces FACES=folder YUNET=file}"
second=()
[ "$EDGEFACE" = 0 ] || second=("$FACES"/edgeface_xxs.pth)
for needed in "$FACES"/{images,landmarks.csv,folds.csv,mobilefacenet_y1.pth} "${second[@]}" "$YUNET"; do
    if [ ! -e "$needed" ]; then
        echo "error: $needed: not there; FACES and YUNET name what the head of examples/real_faces.sh lists" >&2
        exit 2
    fi
done
if [ "$EDGEFACE" != 0 ] && ! "$PY" -c 'import timm' 2>/dev/null; then
    echo "error: edgeface_xxs needs the package timm: $PY -m pip install timm" >&2
    exit 2
fi
mkdir -p $OUT
ln -sfn "$(realpath "$FACES")" $GIVEN
ln -sfn "$(realpath "$YUNET")" $OUT/yunet.onnx
trap 'exit 143' TERM   # once the command that runs has ended: it writes down where it is
export PYTHONPATH=$GIVEN${PYTHONPATH:+:$PYTHONPATH}

# step FOLDER TITLE COMMAND...: run the command unless FOLDER/.done is there.
step() {
    [ ! -e "$1/.done" ] || return 0
    printf '\n== %s\n' "$2"
    "${@:3}"
    touch "$1/.done"
}

# listed FOLDS LEAST: print the first four images of each person of these folds who has LEAST or more.
listed() {
    local all=$OUT/people/all.txt
    (cd $GIVEN/images && find . -name '*.jpg' | sed 's|^\./||' | LC_ALL=C sort) >"$all"
    awk -F'[,/]' -v folds="$1" -v least="$2" -v limit="${LIMIT:-1000000}" '
        FNR == 1 { part++ }
        part == 1 { sub(/\r/, ""); fold[$1] = $2; next }
        part == 2 { images[$1]++; next }
        !($1 in fold) || !index(folds, fold[$1]) || images[$1] < least { next }
        !($1 in seen) && ++persons > limit { exit }
        seen[$1]++ < 4
    ' $GIVEN/folds.csv "$all" "$all"
}

# people FOLDER: copy the images that FOLDER.txt lists.
people() {
    rm -rf "$1"
    mkdir -p "$1"
    tar -C $GIVEN/images -T "$1.txt" -cf - | tar -C "$1" -xf -
}

# choose NAME TITLE FOLDS LEAST: choose people, once. What is made of them is not made again for others, so that other
# folds, another LIMIT or other photographs than before are an error.
choose() {
    local folder=$OUT/people/$1
    mkdir -p $OUT/people
    listed "$3" "$4" >"$folder.asked"
    if [ -e "$folder/.done" ] && ! cmp -s "$folder.asked" "$folder.txt"; then
        echo "error: $OUT: its people $2 are not those of folds $3${LIMIT:+, LIMIT=$LIMIT,} in $FACES; move $OUT away" >&2
        exit 2
    fi
    mv "$folder.asked" "$folder.txt"
    step "$folder" "choose the people $2" people "$folder"
}

degrade() {
    "$PY" prepare.py -c configs/faces/degrade.yaml base.save_path=$OUT/"$1" degrade.loc=$OUT/people/"$1" "${@:2}"
}

# adamw: rates that EdgeFace-XXS bears; those of the recipe, made for MobileFaceNet, take it apart within ten steps.
adamw() {
    printf '%s\n' optimizer.module=torch.optim.AdamW \
        'optimizer.group_1={params: quality_head, lr: 0.001, weight_decay: 0.01}' \
        'optimizer.group_2={params: feature_extractor, lr: 0.0003, weight_decay: 0.01}'
}

# recommended: what the recipe that the search chose (configs/aikd_recommended.yaml) changes in configs/faces/aikd.yaml.
recommended() {
    printf '%s\n' base.epochs=10 'scheduler.milestones=[6.5, 9]' loss.ranking=1 dataset.label_scaling=minmax \
        dataset.perturbation.family=mixed model.config=$RECOMMENDED_NETWORK
    adamw
}
RECOMMENDED_NETWORK=configs/faces/edgeface.yaml
[ "$EDGEFACE" != 0 ] || RECOMMENDED_NETWORK=configs/faces/network.yaml

# label X: label the people to train on. LightQNet's labels are given, for the originals.
label() {
    [ "$1" != lightqnet ] || return 0
    step $OUT/"$1"/labels "label the people to train on: X = $1" \
        "$PY" label.py -c configs/faces/label_"$1".yaml --allow-module mobilefacenet_y1 output.page=0 \
        base.device="$DEVICE"
}

# References beside copies of up to half of the strongest: at .8 half of the pairs fail, and no score could help.
TESTED=(degrade.share=1 degrade.references=1 degrade.strongest=0.5)
