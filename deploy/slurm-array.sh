#!/bin/sh
# One benchmark on a Slurm cluster, its videos split over an array of jobs:
#   sbatch --array=1-8 deploy/slurm-array.sh avhbench DATA RUN Qwen/Qwen2.5-Omni-3B
# Each job takes its part from SLURM_ARRAY_TASK_ID. One that was killed goes on where it stopped when it is submitted
# again. When all are done: outro eval merge RUN/avhbench.*-of-8.jsonl --out RUN/merged/avhbench.jsonl
#SBATCH --job-name=outro-eval
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
task=$1 data=$2 run=$3 model=$4
shift 4
exec "${OUTRO:-outro}" eval run "$task" --data "$data" --out "$run" --model "$model" "$@"
