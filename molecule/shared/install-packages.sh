#!/usr/bin/env bash
# Install those of the named Debian packages that this host does not have; nothing is upgraded, nothing is removed.
set -euo pipefail

missing=()
for package in "$@"; do
  if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
    missing+=("$package")
  fi
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "These Debian packages are missing, install them as root: ${missing[*]}." >&2
  exit 1
fi
echo "Installing ${missing[*]}" >&2
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# An archive of somebody else's that does not answer is no reason to stop: the installation decides.
if ! apt-get update >"$log" 2>&1; then
  echo "Not every archive of this host's apt sources answers; going on with those that do." >&2
fi
if ! apt-get install --yes --no-install-recommends --no-upgrade "${missing[@]}" >>"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "These packages could not be installed: ${missing[*]}; the log is $log." >&2
  exit 1
fi
rm -f "$log"
