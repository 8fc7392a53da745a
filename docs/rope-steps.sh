#!/usr/bin/env bash
# LongRoPE step by step, of each seed of make rope: searched and trained at 4 C, at 8 C, then searched for 32 C without
# training, and again for short texts; beside it directly at 8 C, on the tokens of both trainings. Called by make rope-full,
# behind make rope, which has searched at 8 C; what is made already is found.
#
#   BIN RUNS TRAINED SEEDS C TUNE TWICE SEARCH FAR SCORE FARTHEST TO: variables of docs/rope-extension.mk, without ROPE_
# shellcheck disable=SC2086  # several words each
set -euo pipefail

only() { # the one directory of a pattern
    [ $# = 1 ] && [ -d "$1" ] || { echo "error: one run is needed, and these are $#: $*" >&2; exit 1; }
    echo "$1"
}
extend() { "$BIN"/python -m lab.extend extension=longrope run="$1" extension.factor="$2" "${@:3}"; }
found() { "$BIN"/python tests/studies/searched.py "$@"; } # PARENT FACTOR [LENGTH]
tune() { "$BIN"/python -m lab.train experiment=rope_finetune start=run $TUNE start.run="$1" scale.context="$2" "${@:3}"; }
compare() { # OUTPUT REFERENCE KEYS... -- RUNS...
    local output=$1 reference=$2 keys=() runs
    shift 2
    while [ "$1" != -- ]; do keys+=("$1"); shift; done
    shift
    runs=$(IFS=,; echo "$*")
    "$BIN"/python -m lab.compare runs="[$runs]" factor=extension reference="\"$reference\"" "${keys[@]}" output="$TO/rope/$output"
}

first=() steps=() direct=()
for seed in $SEEDS; do
    base=$(only $RUNS/rope-*-seed$seed-????????)
    # Does it help that the first tokens turn as before? The factors that were found, without.
    eight=$(found "$base" 8 $((8 * C)))
    extend "$base" 8 extension.search=found 'extension.kept=[0]'
    first+=("$eight" "$(found "$base" 8)")

    extend "$base" 4 $SEARCH
    tune "$(found "$base" 4 $((4 * C)))" $((4 * C)) runs="$TRAINED"_steps
    middle=$(only "$TRAINED"_steps/rope-*-C$((4 * C))-*-seed$seed-????????)
    extend "$middle" 8 $SEARCH
    tune "$(found "$middle" 8 $((8 * C)))" $((8 * C)) runs="$TRAINED"_steps
    tune "$eight" $((8 * C)) $TWICE runs="$TRAINED"_direct

    last=$(only "$TRAINED"_direct/rope-*-C$((8 * C))-*-seed$seed-????????)
    extend "$last" 32 $FAR
    direct+=("$last" "$(found "$last" 32 $((32 * C)))")
    last=$(only "$TRAINED"_steps/rope-*-C$((8 * C))-*-seed$seed-????????)
    extend "$last" 32 $FAR
    for short in $C $((2 * C)); do extend "$last" 32 $FAR search.length="$short"; done
    extend "$last" 32 extension.search=found "extension.up_to=[$C,$((2 * C))]"
    steps+=("$last" "$(found "$last" 32 $((32 * C)))" "$(found "$last" 32)")
done
compare start_tokens 'rope+longrope(s=8, searched, first=0)' $SCORE measure=loss_by_position -- "${first[@]}"
compare steps 'rope+longrope(s=4, searched)+longrope(s=8, searched)' $FARTHEST measure=truncated_perplexity -- "${steps[@]}"
compare direct 'rope+longrope(s=8, searched)' $FARTHEST measure=truncated_perplexity -- "${direct[@]}"
