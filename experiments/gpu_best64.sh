#!/bin/sh
# Trains best64 on a GPU for ten minutes and scores it. The same command resumes, for ten minutes more.
#
#     sh experiments/gpu_best64.sh img_align_celeba.zip [WORKDIR [FLAGS OF TRAIN ...]]
#
# UNMEASURED: no run with these settings exists. They differ from the preset's, which were found on a CPU with 10,000 images:
#   --batch-size 128         at 32 images a GPU waits for its host between kernels. The learning rates stay as they are
#   --compute-dtype bfloat16 1.5 times as fast for torch64 on an H200. R1 by noise stays float32
#   --grow-kimg, --kimg      longer, for all of CelebA. Ten minutes may end before them; then the run can be resumed
#   --score-every-kimg       so that the best checkpoint is kept, whatever the length
# Packing of the images comes before the ten minutes. Environment: PYTHON, MINUTES, COUNT (samples in the score).
set -eu
data=${1:?give the images: a folder, .zip or .npy}
workdir=${2:-runs}
shift; [ $# -eq 0 ] || shift
python=${PYTHON:-python3}
for size in 32 64; do
    "$python" -m dcgan_jax.prepare --data "$data" --size "$size" --crop centre
done
# At the end of the time SIGTERM makes the run save and stop; `timeout` then returns 124, or the run's own status.
status=0
timeout --preserve-status --signal=TERM "$((${MINUTES:-10} * 60))" "$python" -m dcgan_jax.train --workdir "$workdir" \
    --name gpu-best64 --preset best64 --data "$data" --batch-size 128 --compute-dtype bfloat16 \
    --grow-kimg 1200 --kimg 2400 --score-every-kimg 100 "$@" || status=$?
[ "$status" -eq 0 ] || exit "$status"
# Until the first score there is no best checkpoint. Then the newest one is scored.
"$python" -m dcgan_jax.evaluate --run "$workdir/gpu-best64" --count "${COUNT:-5000}" --step best ||
    "$python" -m dcgan_jax.evaluate --run "$workdir/gpu-best64" --count "${COUNT:-5000}"
