#!/usr/bin/env bash
# The search on photographs (docs/results.md): make faces-search FACES=folder YUNET=file, or this script from the root of
# the repository. One change to the recipe of the first table each, compared on the people to choose on. Commands in a
# row; one that is done is skipped. FACES, YUNET, LIMIT, EXTRA and DEVICE are those of examples/real_faces.sh.
#   ONLY     names of trials, e.g. "long mixed"; all by default
#   EVALUATE further key=value of the comparison
source "$(dirname "$0")/faces_common.sh"
SEARCH=$OUT/search

trials='aikd plain long copies fused views similarity box mixed range both ranking strong none head minmax
    other_teacher other_student chosen chosen_none together together_none
    edge edge_mixed edge_mixed_minmax edge_mixed_both edge_mixed_30 y1_adamw edge_best_none'

# changes TRIAL: print what differs from configs/faces/aikd.yaml.
changes() {
    case $1 in
        aikd) ;;
        plain) printf '%s\n' dataset.misalign=0 'loss.weights=[0, 1]' ;;
        long) printf '%s\n' base.epochs=10 'scheduler.milestones=[6.5, 9]' ;;
        copies)
            printf '%s\n' base.epochs=1 'scheduler.milestones=[0.65, 0.9]' base.validate_every=0.5 \
                dataset.image_location=$SEARCH/pictures dataset.landms_location=$SEARCH/pictures/landmarks.csv \
                dataset.quality_location=$SEARCH/labels_copies/labels.pkl
            ;;
        fused) printf '%s\n' dataset.quality_location=$SEARCH/labels_fused/labels.pkl ;;
        views) printf '%s\n' dataset.quality_location=$SEARCH/labels_views/labels.pkl ;;
        similarity | box | mixed) printf '%s\n' dataset.perturbation.family="$1" ;;
        range) printf '%s\n' dataset.perturbation.least_px=0 dataset.perturbation.radius_px=8 ;;
        both) printf '%s\n' loss.crops=both ;;
        ranking) printf '%s\n' loss.ranking=1 ;;
        strong) printf '%s\n' 'loss.weights=[3, 1]' ;;
        none) printf '%s\n' 'loss.weights=[0, 1]' ;;
        head) printf '%s\n' optimizer.group_2=null ;;
        minmax) printf '%s\n' dataset.label_scaling=minmax ;;
        other_teacher)
            printf '%s\n' model.config=configs/faces/edgeface_teacher.yaml \
                'optimizer.group_3={params: adapter, lr: 0.05, weight_decay: 0.0005, momentum: 0.9}'
            ;;
        other_student) printf '%s\n' model.config=configs/faces/edgeface.yaml ;;
        chosen) changes long && changes ranking ;;
        chosen_none) changes chosen && changes none ;;
        together) changes chosen && changes minmax && changes strong ;;
        together_none) changes together && changes none ;;
        edge) changes chosen && changes other_student && adamw ;;
        edge_mixed) changes edge && changes mixed ;;
        edge_mixed_minmax) recommended ;;
        edge_mixed_both) changes edge_mixed && changes both ;;
        edge_mixed_30) changes edge_mixed && printf '%s\n' base.epochs=30 'scheduler.milestones=[19.5, 27]' ;;
        edge_best_none) recommended && changes none ;;
        y1_adamw) changes chosen && changes mixed && adamw ;;
        *)
            echo "error: no trial $1; there are: $trials" >&2
            exit 2
            ;;
    esac
}

# network TRIAL: print the configuration of the student.
network() {
    case $1 in
        other_student | edge*) echo configs/faces/edgeface.yaml ;;
        *) echo configs/faces/network.yaml ;;
    esac
}

# label_as NAME CHANGE...: label the people to train on by a changed SER-FIQ.
label_as() {
    step $SEARCH/"$1" "label: $1" "$PY" label.py -c configs/faces/label_ser_fiq.yaml --allow-module mobilefacenet_y1 \
        --allow-module edgeface_xxs output.page=0 base.device="$DEVICE" base.save_path=$SEARCH/"$1" "${@:2}"
}

# needs TRIAL: make what only this trial reads.
needs() {
    case $1 in
        copies)
            step $SEARCH/pictures 'each photograph and a copy of it' degrade train base.save_path=$SEARCH/pictures \
                degrade.share=1 degrade.references=1
            label_as labels_copies dataset.loc=$SEARCH/pictures dataset.landmarks=$SEARCH/pictures/landmarks.csv
            ;;
        fused)
            step $SEARCH/labels_edgeface 'label: EdgeFace-XXS' "$PY" label.py -c configs/faces/label_ser_fiq_edgeface.yaml \
                --allow-module edgeface_xxs output.page=0 base.device="$DEVICE" base.save_path=$SEARCH/labels_edgeface
            step $SEARCH/labels_fused 'fuse the labels of both networks' "$PY" prepare.py \
                -c configs/prepare_config.yaml base.task=fuse base.save_path=$SEARCH/labels_fused \
                "fuse.files=[$OUT/ser_fiq/labels/labels.csv, $SEARCH/labels_edgeface/labels.csv]"
            ;;
        views) label_as labels_views source.views=8 ;;
    esac
}

# trial NAME: train its student.
trial() {
    local -a changed
    changes "$1" >/dev/null
    mapfile -t changed < <(changes "$1")
    needs "$1"
    step $SEARCH/"$1" "trial: $1" "$PY" train_main.py -c configs/faces/aikd.yaml --allow-module mobilefacenet_y1 \
        --allow-module edgeface_xxs base.save_path=$SEARCH/"$1" base.device="$DEVICE" "${changed[@]}" $EXTRA
}

# compare: every trial that is trained, and X, on the people to choose on.
compare() {
    local name
    local -a students=()
    for name in $trials; do
        [ ! -e $SEARCH/"$name"/.done ] ||
            students+=("scores.$name={weights: $SEARCH/$name/aikd-last.pth, config: $(network "$name")}")
    done
    "$PY" evaluate.py -c configs/faces/search.yaml --allow-module mobilefacenet_y1 --allow-module edgeface_xxs \
        "${students[@]}" "$@"
}

mkdir -p $SEARCH
choose train 'to train on' 012 1
choose selection 'to choose on' 3 2
step $OUT/train 'degrade half of the images to train on' degrade train
step $SEARCH/faces 'degraded copies, to choose on' degrade selection base.save_path=$SEARCH/faces "${TESTED[@]}"
step $SEARCH/detected 'landmarks and boxes of another detector' "$PY" prepare.py -c configs/faces/landmarks.yaml \
    base.save_path=$SEARCH/detected dataset.image_location=$SEARCH/faces
label ser_fiq
for name in ${ONLY:-$trials}; do
    trial "$name"
done

printf '\n== compare on the people to choose on\n'
compare ${EVALUATE:-}
cat <<END

Look at:
  $SEARCH/evaluation/report.html  curves, tables and examples on one page
  $SEARCH/evaluation/pauc.csv     the criterion is the mean of these cells (docs/results.md)
END
