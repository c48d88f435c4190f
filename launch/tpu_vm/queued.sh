#!/usr/bin/env bash
# Training on a slice of Cloud TPU VMs by a queued resource: one container on every worker of the slice.
#
#   launch/tpu_vm/queued.sh create [--spot] | status | run | logs | stop | delete
#
# `run` again goes on from the last checkpoint, on this slice or, after a preemption, on the next.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
variables=${VARIABLES:-$here/variables/run.env}
value() { # of a variable: the environment's, or the file's
  if [[ -v $1 ]]; then echo "${!1}"; else sed -n "s/^$1=//p" "$variables"; fi
}
name=$(value TPU_NAME) bucket=$(value BUCKET) image=$(value IMAGE)
where=(--project "$(value PROJECT)" --zone "$(value ZONE)")

queued() { gcloud compute tpus queued-resources "$@" "${where[@]}"; }
on_all() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker all --command "$1"; }

case ${1:-} in
  create)
    [[ ${2:-} == --spot || -z ${2:-} ]] || { echo "queued.sh: create takes --spot or nothing, not $2" >&2; exit 2; }
    queued create "$name" --node-id "$name" --accelerator-type "$(value TPU_TYPE)" \
      --runtime-version "$(value TPU_RUNTIME)" --scopes https://www.googleapis.com/auth/cloud-platform ${2:+"$2"}
    ;;
  status)
    queued describe "$name" --format 'value(state.state)'
    ;;
  run)
    gcloud compute tpus tpu-vm scp "$variables" "$name:run.env" "${where[@]}" --worker all
    # gcsfuse comes from Google's apt repository, which the TPU images know; nothing is done twice.
    on_all "set -e
      command -v gcsfuse >/dev/null || { sudo apt-get update -q && sudo apt-get install -yq gcsfuse; }
      sudo mkdir -p /bucket
      mountpoint -q /bucket || sudo gcsfuse -o allow_other --uid 10001 --gid 10001 --implicit-dirs \
        --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 --rename-dir-limit 200000 $bucket /bucket
      sudo docker rm -f maxsearch >/dev/null 2>&1 || true
      sudo docker run -d --name maxsearch --restart on-failure:20 --stop-timeout 120 --privileged --net host \
        --shm-size 16g --user 0 --env-file run.env -v /bucket:/bucket $image train"
    ;;
  logs)
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker 0 --command 'sudo docker logs -f --tail 100 maxsearch'
    ;;
  stop)
    on_all 'sudo docker stop -t 120 maxsearch'
    ;;
  delete)
    queued delete "$name" --force --quiet
    ;;
  *)
    echo "queued.sh: no action '${1:-}': choose create [--spot], status, run, logs, stop or delete" >&2
    exit 2
    ;;
esac
