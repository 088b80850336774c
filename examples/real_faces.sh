#!/usr/bin/env bash
# The table on photographs (docs/results.md): make faces FACES=folder YUNET=file, or this script from the root of the
# repository. Commands in a row; one that is done is skipped, so an interrupted run goes on.
#   FACES    folder with images/PERSON/*.jpg, landmarks.csv, folds.csv (identity, fold 0 to 5), labels_lightqnet.csv and
#            the recognition networks mobilefacenet_y1 and edgeface_xxs, .py and .pth each (the second needs timm)
#   YUNET    face_detection_yunet_2026may.onnx of the OpenCV Zoo
#   SOURCES  label sources: ser_fiq (default), magnitude, lightqnet; SEEDS: training seeds, 1 2 3
#   TRAIN    folds to train on, 012; TEST: folds to test on, 45; the recipe was chosen on fold 3
#   LIMIT    people of each part, to try it out; EXTRA: further key=value for each training, e.g. base.max_steps=2
#   RECIPE   first (default): that of the demo in two epochs; recommended: what the search chose, without the released
#            recipe beside it; students and tables lie in runs/faces/recommended
#   STUDENTS further key=value for AI-KD, plain and augmented, not for the released recipe, e.g. base.epochs=100
#   JOBS     students of one X and seed that are trained beside one another: 1 (default) to 3
#   DEVICE   cpu (default) or cuda:0; EDGEFACE=0 leaves the second network out, as where timm is missing
source "$(dirname "$0")/faces_common.sh"
SOURCES=${SOURCES:-ser_fiq}
SEEDS=${SEEDS:-1 2 3}
TRAIN=${TRAIN:-012}
TEST=${TEST:-45}
JOBS=${JOBS:-1}
RECIPE=${RECIPE:-first}
STUDENTS=${STUDENTS:-}
case $RECIPE in
    first) TRAINED=$OUT NETWORK=configs/faces/network.yaml changes=() ;;
    recommended)
        TRAINED=$OUT/recommended NETWORK=$RECOMMENDED_NETWORK
        mapfile -t changes < <(recommended)
        ;;
    *) echo "error: RECIPE=$RECIPE: there are first and recommended" >&2; exit 2 ;;
esac
Y1='{module: mobilefacenet_y1.MobileFaceNetY1, weights: runs/faces/photographs/mobilefacenet_y1.pth, precision: fp32}'

random_scores() {
    cut -d' ' -f1,2 $OUT/test/pairs.txt | tr ' ' '\n' | LC_ALL=C sort -u |
        awk 'BEGIN { srand(1); print "path,quality" } { print $1 "," rand() }' >$OUT/random.csv
}

# data X: print what training on the labels of X reads. Labels of the originals train on the originals.
data() {
    if [ "$1" = lightqnet ]; then
        printf 'dataset.%s\n' image_location=$OUT/people/train landms_location=$GIVEN/landmarks.csv \
            quality_location=$GIVEN/labels_lightqnet.csv
    else
        printf 'dataset.quality_location=%s\n' $OUT/"$1"/labels/labels.pkl
    fi
}

networks=(--allow-module mobilefacenet_y1)
[ "$EDGEFACE" = 0 ] || networks+=(--allow-module edgeface_xxs)

# student X KIND SEED CHANGE...: train one student.
student() {
    local -a reads
    mapfile -t reads < <(data "$1")
    step $TRAINED/"$1"/"$2-$3" "train: $2 on labels of $1, seed $3" \
        "$PY" train_main.py -c configs/faces/aikd.yaml "${networks[@]}" base.seed="$3" \
        base.save_path=$TRAINED/"$1"/"$2-$3" base.device="$DEVICE" "${reads[@]}" "${changes[@]}" "${@:4}" $STUDENTS $EXTRA
}

# begin X KIND SEED CHANGE...: train one student, beside others where JOBS says so.
running=()
begin() {
    if [ "$JOBS" = 1 ]; then
        student "$@"
        return
    fi
    { trap 'exit 143' TERM && student "$@"; } &   # as this script: once what runs has ended
    running+=($!)
    [ "${#running[@]}" -lt "$JOBS" ] || end_all
}

# end_all: wait for the students that are being trained; where one fails, end as it did.
end_all() {
    local pid code=0
    for pid in "${running[@]}"; do
        wait "$pid" || code=$?
    done
    running=()
    [ $code = 0 ] || exit $code
}

# first_steps FOLDER: wait until the student has taken steps, and so knows the teacher's embeddings, which others read.
first_steps() {
    while [ "${#running[@]}" != 0 ] && [ ! -s "$1/metrics.jsonl" ] && kill -0 "${running[-1]}" 2>/dev/null; do
        sleep 0.2
    done
}

# released X: the released recipe on the same images and labels, one epoch.
released() {
    local -a reads
    mapfile -t reads < <(data "$1")
    step $OUT/"$1"/released-1 "train: the released recipe on labels of $1" \
        "$PY" train_main.py -c configs/train_config.yaml --allow-module mobilefacenet_y1 base.seed=1 \
        base.save_path=$OUT/"$1"/released-1 base.device="$DEVICE" base.precision=bf16 \
        dataset.image_location=$OUT/train dataset.landms_location=$OUT/train/landmarks.csv \
        "${reads[@]}" dataloader.train.params.num_workers=0 dataloader.val.params.num_workers=0 \
        model.config=configs/faces/network.yaml model.teacher_cache=$OUT/teacher_cache $EXTRA
}

# evaluate: compare every student that is trained, and whose weights are here, with the sources, on people nobody was
# trained on.
evaluate() {
    local done_file folder name
    local -a students=()
    for done_file in $TRAINED/*/{aikd,plain,augmented,released}-*/.done; do
        [ -e "$done_file" ] || continue
        folder=$(dirname "$done_file")
        if [ ! -e "$folder/aikd-last.pth" ]; then
            echo "$folder: left out, its weights are not here"
            continue
        fi
        name="$(basename "$folder")($(basename "$(dirname "$folder")"))"
        students+=("scores.$name={weights: $folder/aikd-last.pth, config: $NETWORK}")
    done
    [ "$NETWORK" != configs/faces/edgeface.yaml ] ||
        students+=('scores.SER-FIQ on EdgeFace-XXS={source: configs/faces/label_ser_fiq_edgeface.yaml}')
    local -a judges=()
    if [ "$EDGEFACE" = 0 ]; then
        echo 'the second network, EdgeFace-XXS, is left out: EDGEFACE=0'
        judges=("recognition={MobileFaceNet y1: $Y1}")
    fi
    "$PY" evaluate.py -c configs/faces/evaluate.yaml "${networks[@]}" "${judges[@]}" \
        base.device="$DEVICE" base.save_path=$TRAINED/evaluation "${students[@]}" "$@"
}

shared=$(tr -d "$TRAIN" <<<"$TEST")
if [ "$shared" != "$TEST" ]; then
    echo "error: TRAIN=$TRAIN and TEST=$TEST share a fold: the people tested would have been trained on" >&2
    exit 2
fi
choose train 'to train on' "$TRAIN" 1
choose selection 'to choose on' 3 2
choose test 'to test on' "$TEST" 2
step $OUT/train 'degrade half of the images to train on' degrade train
step $OUT/selection 'degraded copies, to choose on' degrade selection degrade.share=1 degrade.references=1
step $OUT/test 'degraded copies, to test on' degrade test "${TESTED[@]}"
step $OUT/detected 'landmarks and boxes of another detector' "$PY" prepare.py -c configs/faces/landmarks.yaml
random_scores

for source in $SOURCES; do
    label "$source"
done
trap 'wait; exit 143' TERM
for source in $SOURCES; do
    for seed in $SEEDS; do   # a run that ends early holds whole seeds
        begin "$source" aikd "$seed"
        first_steps "$TRAINED/$source/aikd-$seed"
        begin "$source" plain "$seed" dataset.misalign=0 'loss.weights=[0, 1]'
        begin "$source" augmented "$seed" 'loss.weights=[0, 1]'
        end_all
    done
    [ "$RECIPE" != first ] || released "$source"
done

printf '\n== compare on people nobody was trained on\n'
evaluate ${EVALUATE:-}
cat <<END

Look at:
  $TRAINED/evaluation/report.html      curves, tables and examples on one page
  $TRAINED/evaluation/differences.csv  every difference with its interval
  $TRAINED/evaluation/losses.csv       what each method loses from aligned crops
END
