#!/usr/bin/env bash
# From Penn Treebank to a finetuned model with a cache pointer and generated text, small enough for two cores.
# usage: docs/awdlm_ptb.sh [FOLDER]   (rnn-data get penn comes first)
set -euo pipefail
folder=${1:-runs/awdlm-ptb}
mkdir -p "$folder"
step=(--batch_size 20 --dropouti 0.2 --dropouth 0.2 --dropout 0.2 --wdrop 0.1 --seed 141 --amp bf16)

awdlm-train --model QRNN --data penn --emsize 200 --nhid 400 --nonmono 0 --epochs 24 "${step[@]}" \
    --run_dir "$folder/train" --save "$folder/PTB.pt"
awdlm-finetune --save "$folder/PTB.pt" --nonmono 2 --epochs 4 "${step[@]}" --run_dir "$folder/finetune"
awdlm-pointer --save "$folder/PTB.finetuned.pt" --lambdasm 0.1 --theta 1.0 --window 500 --output "$folder/pointer.json"
awdlm-generate --checkpoint "$folder/PTB.finetuned.pt" --words 120 --temperature 0.8 --outf "$folder/generated.txt"
