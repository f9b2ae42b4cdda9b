#!/usr/bin/env bash
# A quarter of an hour on a GPU that is rented by the minute: checks, figures, then the training that gains most.
#
#   bash benchmarks/gpu_quarter_hour.sh OUT [--data pack.tar] [--minutes 15] [--dry]
#
# pack.tar holds the folder `pack/` of `latentseg train pack` and is at most 64 MB. TRAIN names what is trained in
# the time that is left, such as "denoiser configs/denoiser-holes.yaml" (the default). Its weights are in OUT/weights
# every minute; it is stopped in time, and the same call goes on from its checkpoint.
# OUT/figures.json: agreement with the CPU, seconds a step and peak memory of SD-size training at batch 1 and 4,
# the loader alone. OUT/speed_training.json: images a second of the compact trainings. OUT/log.txt: all that was said.
# --dry: everything on the CPU with small networks and a training of one minute, to prove that the script works.
set -euo pipefail

out=${1:?"usage: gpu_quarter_hour.sh OUT [--data pack.tar] [--minutes 15] [--dry]"}
shift
data="" minutes=15 dry=""
while [ $# -gt 0 ]; do
  case $1 in
    --data) data=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --dry) dry=yes; shift ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
python=${PYTHON:-python}
train=${TRAIN:-"denoiser configs/denoiser-holes.yaml"}
started=$(date +%s)
mkdir -p "$out"
exec > >(tee -a "$out/log.txt") 2>&1

step() { echo "== $* ($(($(date +%s) - started)) s)"; }
left() { echo $((60 * minutes - ($(date +%s) - started))); }
compact() { "$python" -c "from latentseg.backbones.registry import resolve; print(resolve('compact'))"; }
# a check that fails or takes too long is said and does not take the time of what follows
try() { timeout --kill-after 10 "$1" "${@:2}" || echo "== failed or too slow: ${*:2}"; }

if [ -n "$data" ]; then
  size=$(($(stat -c %s "$data") / 1000000))
  if [ "$size" -gt 64 ]; then echo "$data is $size MB, at most 64 are taken along" >&2; exit 3; fi
  step "unpacking $data"
  tar -xf "$data" -C "$out"
elif [ ! -e "$out/pack/pack.json" ]; then
  step "a pack of phantoms, as there is no --data"
  echo "sources: [{name: phantom, phantom: abdomen, seeds: [0, 2], keep_labels: [gallbladder, stomach]}]" \
    >"$out/pack.yaml"
  "$python" -m latentseg train pack "$out/pack.yaml" --out "$out/pack"
  "$python" -m latentseg train supervoxels "$out/pack"
fi

thin=1 steps=5 short=3 seconds=(180 240 120)
if [ -n "$dry" ]; then thin=4 steps=2 short=1 seconds=(900 900 900); fi
"$python" -m latentseg doctor || true

step "few-shot and prompt, device against CPU"
try "${seconds[0]}" "$python" benchmarks/gpu_figures.py agreement --thin $thin --output "$out/figures.json"
step "SD-size training"
try "${seconds[1]}" "$python" benchmarks/gpu_figures.py training --thin $thin --steps $steps \
  --output "$out/figures.json"
step "compact trainings"
try "${seconds[2]}" "$python" benchmarks/speed_training.py --pack "$out/pack" --backbone "$(compact)" \
  --steps $short --output "$out/speed_training.json"

# the training gets what is left but a minute to stop, export and copy
budget=$(($(left) - 60))
if [ -n "$dry" ]; then budget=60; fi
if [ "$budget" -lt 30 ]; then echo "no time is left for a training"; exit 0; fi
read -r verb config <<<"$train"
sed -E 's/checkpoint_minutes: *[0-9.]+/checkpoint_minutes: 1/' "$config" >"$out/$(basename "$config")"
step "training $train for $budget s"
# SIGTERM ends it after the step that is being taken, with a checkpoint and its weights
timeout --signal TERM --kill-after 45 "$budget" "$python" -m latentseg train "$verb" \
  "$out/$(basename "$config")" --pack "$out/pack" --backbone compact --out "$out/weights" --resume || true
ls -l "$out/weights"
step "done"
cat "$out/figures.json" "$out/speed_training.json"
