# Read by each bash of a job (BASH_ENV): what SLURM gave it, when it began, and when it ended.
if [ -n "${SLURM_JOB_ID:-}" ] && [[ "${BASH_EXECUTION_STRING:-}" == *"python -m vitals"* ]]; then
  unset BASH_ENV
  said="${SLURM_JOB_ID}|${CUDA_VISIBLE_DEVICES:-}"
  output=$(grep -oP -- '--output \K\S+' <<< "$BASH_EXECUTION_STRING")
  echo "begin|$(date +%s.%N)|$said|$output" >> "$VITALS_RECORD"
  trap 'echo "end|$(date +%s.%N)|$said|$output" >> "$VITALS_RECORD"' EXIT
fi
