#!/usr/bin/env bash
# Multi30k with plain and reversible encoder-decoders of 150 units: the table of revrnn_nmt.md. It writes to data/ and runs/.
set -euo pipefail
revrnn-nmt-data multi30k
cd data/multi30k
# Words that occur once are left out: with few epochs they are not learned, and most of a step is the vocabulary's product.
revrnn-nmt-preprocess -train_src train.en.tok.low -train_tgt train.de.tok.low -valid_src val.en.tok.low \
  -valid_tgt val.de.tok.low -test_src test2016.en.tok.low -test_tgt test2016.de.tok.low -lower \
  -src_words_min_frequency 2 -tgt_words_min_frequency 2 -save_data twice
cd ../..
for cell in gru revgru lstm revlstm; do
  case "$cell" in
    rev*) model=(-encoder_model=Rev -decoder_model=Rev -context_type=slice_emb -slice_dim=20 -dropouts=0.2 -use_buffers
      -separate_buffers -use_reverse -log_mem) ;;
    *) model=(-encoder_model=Vanilla -decoder_model=Vanilla -context_type=hidden) ;;
  esac
  revrnn-nmt-train -data data/multi30k/twice -word_vec_size=150 -rnn_size=150 -enc_layers=1 -dec_layers=1 -batch_size=64 \
    -global_attention=general -optim adam -learning_rate=0.002 -epochs=4 -start_decay_at=3 -dropouti=0.2 -dropouto=0.2 \
    -dropouth=0.2 -valid_batch_size 64 -seed 1 --threads 1 "${model[@]}" -encoder_rnn_type="$cell" -decoder_rnn_type="$cell" \
    --run_dir "runs/multi30k_$cell"
done
