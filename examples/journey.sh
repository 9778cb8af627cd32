#!/usr/bin/env bash
# The whole journey from a folder of images to a report, one command per step.
#
#   examples/journey.sh PHOTOS LABELLED OUT
#
# PHOTOS    images without labels, in any folders
# LABELLED  one folder per class in LABELLED/train and LABELLED/test
# OUT       a new folder for runs and pictures; run the same command again to resume; finished trainings are skipped
#
# RECIPE chooses another recipe (the default is a small encoder for 32 x 32 images; `paddlemae recipe --list` names all),
# PRETRAIN and FINETUNE change its settings: PRETRAIN="steps=1000 image_size=96 patch_size=8" examples/journey.sh ...
set -euo pipefail
photos=$1 labelled=$2 out=$3
recipe=${RECIPE:-cifar10}
read -r -a pretrain <<<"${PRETRAIN:-steps=400}"
read -r -a finetune <<<"${FINETUNE:-steps=200}"
mkdir -p "$out"

# Run a training into the run folder $2, unless it has finished before.
train() {
    local task=$1 folder=$2
    shift 2
    [ -e "$folder.finished" ] || paddlemae "$task" "$recipe" --out "$folder" "$@"
    touch "$folder.finished"
}

# 1. Look for unreadable images, duplicates, and images that are in both splits. Status 1: something was found.
paddlemae data check "$labelled" --out "$out/check" || [ $? = 1 ]

# 2. Pretrain on all images, without labels.
train pretrain "$out/pretrained" --data "$photos" "${pretrain[@]}"

# 3. Look: original, masked image, prediction.
paddlemae reconstruct "$out/pretrained" "$photos" --out "$out/reconstructions.png"

# 4. How good are the features? Nearest neighbours and a linear classifier, without changing the encoder.
paddlemae knn "$out/pretrained" --data "$labelled"
train probe "$out/probe" --init "$out/pretrained" --data "$labelled"

# 5. Fine-tune on the labels, and train the same model without pretraining for comparison.
train finetune "$out/tuned" --init "$out/pretrained" --data "$labelled" "${finetune[@]}"
train finetune "$out/scratch" --init scratch --data "$labelled" "${finetune[@]}"

# 6. Apply the classifier to the images without labels: a table, and the images that it is least sure of.
[ -e "$out/predictions.csv" ] ||
    paddlemae predict "$out/tuned" "$photos" --out "$out/predictions.csv" --sheet "$out/least-sure.png"

# 7. A page with all of it: open OUT/pretrained/report.html in a browser.
paddlemae report "$out/pretrained"
