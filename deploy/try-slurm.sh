#!/bin/bash
# Tries slurm-array.sh on a Slurm of one machine, started for it and stopped afterwards. Needs root and Debian's packages
# slurmctld, slurmd, slurm-client and munge; OUTRO is the program (default: target/debug/outro). Runs the clips in fixtures/
# through four array jobs, merges them, and compares the answers with those of a single run.
set -eu
cd "$(dirname "$0")/.."
OUTRO=$(realpath "${OUTRO:-target/debug/outro}")
export OUTRO
dir=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    # They remove their own files first.
    sleep 1
    rm -rf "$dir"
}
trap stop EXIT
host=$(hostname -s)
mkdir "$dir/state" "$dir/spool" "$dir/munge"
chmod 755 "$dir"
head -c 64 /dev/urandom >"$dir/munge/key"
chmod 600 "$dir/munge/key"
munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" &
pids+=($!)
cat >"$dir/slurm.conf" <<CONF
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$dir/slurm.conf
for _ in $(seq 50); do [ -S "$dir/munge/socket" ] && break; sleep 0.1; done
slurmctld -D -f "$SLURM_CONF" >"$dir/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D -f "$SLURM_CONF" -N "$host" >"$dir/slurmd.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do sinfo -h -o %T 2>/dev/null | grep -q -e idle -e mix && break; sleep 0.3; done
sinfo || { tail -n 20 "$dir"/*.log; exit 1; }

data=$PWD/fixtures/world/avhbench
sbatch --wait --array=1-4 --output="$dir/job.%a.out" --chdir="$PWD" deploy/slurm-array.sh avhbench "$data" "$dir/run" outro-tiny \
    --quiet || { tail -n 20 "$dir"/*.out "$dir"/*.log; exit 1; }
"$OUTRO" eval merge "$dir"/run/avhbench.*-of-4.jsonl --out "$dir/merged.jsonl"
"$OUTRO" eval run avhbench --data "$data" --out "$dir/single.jsonl" --model outro-tiny --quiet >/dev/null
answers() { tail -n +2 "$1" | sed -E 's/"[a-z]+_seconds":[^,}]*,?//g' | sort; }
diff <(answers "$dir/merged.jsonl") <(answers "$dir/single.jsonl")
echo "four array jobs gave the answers of one run"
