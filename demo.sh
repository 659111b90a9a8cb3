#!/usr/bin/env bash
# A whole airgapped cluster on this machine: ./demo.sh [down | ssh MACHINE [COMMAND...]]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

# Machines, bridges and mounts need root.
if [ "$(id -u)" -ne 0 ]; then
  exec sudo -- "$here/demo.sh" "$@"
fi

bash molecule/shared/install-packages.sh python3
exec python3 molecule/shared/demo.py "$@"
