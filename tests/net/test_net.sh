#!/bin/sh
# framefarm-net from outside: exit codes, messages, files in and out. Arguments: the program, tests/golden.
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2086  # options are lists of words
set -u
net=$1
golden=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# expect CODE WORDS COMMAND...: the command exits with CODE and its output contains WORDS.
expect() {
    code=$1
    words=$2
    shift 2
    output=$("$@" 2>&1)
    got=$?
    case $output in
    *"$words"*) found=yes ;;
    *) found=no ;;
    esac
    if [ $got -ne "$code" ] || [ $found = no ]; then
        printf 'FAILED: %s\n  exit %s (wanted %s), output: %s\n  wanted: %s\n' "$*" "$got" "$code" "$output" "$words"
        failed=1
    fi
}

io=$golden/dit-i2v/io-t937.5.safetensors
weights=$golden/dit-i2v/weights.safetensors

# The four networks reproduce their golden cases, and a tolerance nobody can meet is exit code 1.
expect 0 "out.velocity" "$net" dit --weights "$weights" --input "$io" --compare "$io"
expect 1 "> 1.000e-12" "$net" dit --weights "$weights" --input "$io" --compare "$io" --tolerance 1e-12
expect 0 "out.velocity" "$net" dit --weights "$golden/dit-t2v/weights.safetensors" \
    --input "$golden/dit-t2v/io-t250.0.safetensors" --compare "$golden/dit-t2v/io-t250.0.safetensors" --threads 1
expect 0 "out.hidden" "$net" umt5 --weights "$golden/umt5/weights.safetensors" --input "$golden/umt5/io.safetensors" \
    --compare "$golden/umt5/io.safetensors"
expect 0 "out.video" "$net" vae-decode --weights "$golden/vae/weights.safetensors" \
    --input "$golden/vae/io-decode.safetensors" --compare "$golden/vae/io-decode.safetensors"
expect 0 "out.latent" "$net" vae-encode --weights "$golden/vae/weights.safetensors" \
    --input "$golden/vae/io-encode.safetensors" --compare "$golden/vae/io-encode.safetensors"

# What is written compares as equal, whatever the number of threads.
expect 0 "" "$net" dit --weights "$weights" --input "$io" --output "$folder/out" --threads 1
expect 0 "out.velocity 0.000e+00" "$net" dit --weights "$weights" --input "$io" --compare "$folder/out" --threads 5

# Numbers of seeds and schedules.
expect 0 "0.833333313" "$net" sigmas --steps 4 --shift 5
expect 0 "" "$net" noise --seed 42 --shape 1,16,1,2,3 --output "$folder/noise"
expect 0 "out.noise 0.000e+00" "$net" noise --seed 42 --shape 1,16,1,2,3 --compare "$folder/noise" --tolerance 0
expect 1 "out.noise" "$net" noise --seed 43 --shape 1,16,1,2,3 --compare "$folder/noise"

# Bad files: exit code 2, the file named.
head -c 5000 "$weights" >"$folder/cut"
expect 2 "$folder/cut" "$net" dit --weights "$folder/cut" --input "$io"
expect 2 "$folder/cut" "$net" dit --weights "$weights" --input "$folder/cut"
expect 2 "$folder/cut" "$net" dit --weights "$weights" --input "$io" --lora "$folder/cut:0.5"
expect 2 "/nonexistent" "$net" dit --weights /nonexistent --input "$io"
expect 2 "head.modulation" "$net" dit --weights "$golden/vae/weights.safetensors" --input "$io"
expect 2 "channels" "$net" dit --weights "$weights" --input "$golden/dit-t2v/io-t250.0.safetensors"
expect 2 "in.latent" "$net" dit --weights "$weights" --input "$golden/umt5/io.safetensors"
expect 2 "no LoRA style" "$net" dit --weights "$weights" --input "$io" --lora "$weights"
expect 2 "/nonexistent/out" "$net" noise --seed 1 --shape 1,16,1,2,2 --output /nonexistent/out
expect 2 "no tensor out." "$net" noise --seed 1 --shape 1,16,1,2,2 --compare "$weights"

# The command line.
expect 0 "usage:" "$net" --help
expect 0 "framefarm-net" "$net" --version
expect 2 "no command" "$net"
expect 2 "unknown command" "$net" paint
expect 2 "--weights is missing" "$net" dit
expect 2 "--input is missing" "$net" dit --weights "$weights"
expect 2 "--steps" "$net" sigmas
expect 2 "--steps" "$net" sigmas --steps 0
expect 2 "shift" "$net" sigmas --steps 4 --shift -1
expect 2 "--shape" "$net" noise --seed 1 --shape 1,0
expect 2 "--seed" "$net" noise --seed -1 --shape 1,16,1,2,2
expect 2 "precision" "$net" dit --weights "$weights" --input "$io" --precision int3
expect 2 "device" "$net" dit --weights "$weights" --input "$io" --device tpu
expect 2 "dit only" "$net" sigmas --steps 4 --lora x

# Benchmarks: every network, at a size for this CPU. Numbers are there and are numbers (jq is not everywhere).
small="--size 64x64 --frames 5 --dim 256 --layers 2 --repeat 1"
for network in dit vae-decode vae-encode umt5 job; do
    for precision in f32 bf16 fp8; do
        expect 0 "\"bench\": \"$network\", \"by\": \"framefarm\"" "$net" bench $network $small --precision $precision
    done
done
expect 0 '"high_noise":' "$net" bench job $small --steps 2
expect 0 '"tokens": 32,' "$net" bench dit $small
expect 0 '"vram_bytes": 1073741824, ' "$net" bench dit $small --vram 1G
expect 2 "least" "$net" bench dit $small --vram 1M --separate-memory
# Under a budget weights are streamed, and the plan is the truth to the byte.
budget="--size 128x128 --frames 17 --dim 512 --layers 6 --repeat 1 --precision bf16 --separate-memory --vram 33M"
expect 0 '"peak_predicted_bytes": 29704448, "peak_bytes": 29704448' "$net" bench dit $budget
expect 2 "which one?" "$net" bench
expect 2 "unknown" "$net" bench cake
expect 2 "--frames" "$net" bench dit --frames 6
expect 2 "--size" "$net" bench dit --size 100x64
expect 2 "--size" "$net" bench dit --size 100
expect 2 "--dim" "$net" bench dit --dim 200
expect 2 "--vram" "$net" bench dit --vram 12Q
expect 0 '"error": null' "$net" bench dit $small
expect 0 '"attention": "8bit"' "$net" bench dit --size 256x256 --frames 17 --dim 256 --layers 1 --repeat 1 --attention 8bit
expect 2 "attention" "$net" bench dit $small --attention 3bit

# Checkpoints of random values: 1,908 tensors in a scaled FP8 expert, as published. Loaders take them.
expect 0 "14293923760 bytes, 1908 tensors" "$net" checkpoint t2v --output "$folder/t2v" --sparse
expect 0 "194 tensors" "$net" checkpoint vae --output "$folder/vae" --sparse
expect 2 "in.latent" "$net" vae-decode --weights "$folder/vae" --input "$io"
expect 2 "--output is missing" "$net" checkpoint vae
expect 2 "unknown" "$net" checkpoint cake --output "$folder/cake"
expect 2 "--type" "$net" checkpoint umt5 --type int4 --output "$folder/cake"
expect 2 "/nonexistent" "$net" checkpoint vae --output /nonexistent/x
exit $failed
