#!/usr/bin/env bash
# The one place where the variables become a maxsearch command; images, batch scripts and tests all come through here.
#
#   entry.sh train | serve | serve-ray | prepare | dataflow
#
# A variable that the environment does not set is taken from variables/run.env beside this file, where that is.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
variables=${VARIABLES:-$here/variables/run.env}
if [[ -f $variables ]]; then
  while IFS='=' read -r name value || [[ -n $name ]]; do
    [[ $name == [A-Z]* ]] || continue
    [[ -v $name ]] || export "$name=$value"
  done <"$variables"
fi

need() {
  local name
  for name; do
    if [[ -z ${!name:-} ]]; then
      echo "entry.sh: $name is not set: set it in the environment or in variables/run.env" >&2
      exit 2
    fi
  done
}

# Compiled programs outlive the machine: what resumes elsewhere does not compile again.
if [[ -z ${JAX_COMPILATION_CACHE_DIR:-} ]]; then
  unset JAX_COMPILATION_CACHE_DIR
  [[ -z ${BUCKET:-} ]] || export JAX_COMPILATION_CACHE_DIR="gs://$BUCKET/compiled"
fi

job=${1:-}
case $job in
  train)
    need PRESET DATA RUN
    read -ra datasets <<<"$DATA"
    words=(train "$PRESET" --data "${datasets[@]}" --run "$RUN" --stopped-exit-code 75)
    [[ -z ${STEPS:-} ]] || words+=(--steps "$STEPS")
    [[ -z ${MINUTES:-} ]] || words+=(--minutes "$MINUTES")
    read -ra more <<<"${TRAIN_FLAGS:-}"
    ;;
  serve)
    need STORE MODEL DRAIN_SECONDS
    words=(serve --store "$STORE" --model "$MODEL" --host 0.0.0.0 --port 8080 --drain-seconds "$DRAIN_SECONDS")
    read -ra more <<<"${SERVE_FLAGS:-}"
    ;;
  serve-ray)
    need SHARDS MODEL DRAIN_SECONDS RAY_REPLICAS
    words=(serve --engine ray --store "$SHARDS" --model "$MODEL" --ray.address auto --ray.replicas "$RAY_REPLICAS")
    words+=(--host 0.0.0.0 --port 8080 --drain-seconds "$DRAIN_SECONDS")
    read -ra more <<<"${SERVE_FLAGS:-}"
    # A node of the cluster that offers nothing: it only asks.
    [[ -z ${RAY_HEAD:-} ]] || ray start --address "$RAY_HEAD" --num-cpus 0 --disable-usage-stats
    ;;
  prepare | dataflow)
    need PRODUCTS INTERACTIONS PREPARED
    words=(prepare --products "$PRODUCTS" --interactions "$INTERACTIONS" --out "$PREPARED")
    read -ra more <<<"${PREPARE_FLAGS:-}"
    if [[ $job == dataflow ]]; then
      need PROJECT REGION BUCKET PREPARE_IMAGE
      more+=(--runner beam --beam-options runner=DataflowRunner "project=$PROJECT" "region=$REGION"
        "temp_location=gs://$BUCKET/tmp" "sdk_container_image=$PREPARE_IMAGE" sdk_location=container)
    fi
    ;;
  *)
    echo "entry.sh: no job '$job': choose train, serve, serve-ray, prepare or dataflow" >&2
    exit 2
    ;;
esac
exec maxsearch "${words[@]}" "${more[@]}"
