#!/usr/bin/env bash
# Run the tests: ./test.sh [unit | lint | long] [pytest's arguments...]
#
#   ./test.sh        linters, unit tests, and the scenarios on real machines (root, network)
#   ./test.sh unit   what needs neither root nor a network, and takes no more than moments each
#   ./test.sh lint   the linters only
#   ./test.sh long   what takes too long for every day: soaks, fault series, fuzzing, scale
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

given=("$@")
suite=all
case "${1-}" in
  unit | lint | long)
    suite=$1
    shift
    ;;
esac

# Machines, bridges and mounts need root.
if [[ $suite =~ ^(all|long)$ ]] && [ "$(id -u)" -ne 0 ]; then
  exec sudo -- "$here/test.sh" "${given[@]}"
fi

if [[ $suite =~ ^(all|long)$ ]]; then
  packages=(apt ca-certificates chromium chromium-driver debian-archive-keyring debootstrap e2fsprogs gcc git gnupg iproute2
    libc6-dev nftables openssh-client python3 python3-venv rsync shellcheck sudo systemd-container)
  # For the machine with a kernel of its own.
  [ "$suite" != long ] || packages+=(qemu-system-x86)
  bash molecule/shared/install-packages.sh "${packages[@]}"
fi

# The tests' own tools, in an environment that is made anew when the lock or the interpreter changes.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pag
python=$(command -v python3)
key=$( (cat requirements/toolkit.txt requirements/dev.txt requirements/collections.txt && "$python" -VV && echo "$python compiled") |
  sha256sum | cut -c 1-12)
environment=$cache/tests-$key
mkdir -p "$cache"
exec 9>"$cache/.tests.lock"
flock 9
if [ ! -e "$environment/.complete" ]; then
  if [ "$suite" = unit ]; then
    echo "The tests' environment is not there yet: it is made now, once, and that needs a network." >&2
  fi
  rm -rf "$environment"
  "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement requirements/toolkit.txt
  install=("$environment/bin/uv" pip install --quiet --no-config --no-deps --require-hashes
    --python "$environment/bin/python")
  # Compiled, or every process that a test starts would compile what it imports.
  "${install[@]}" --compile-bytecode --requirement requirements/dev.txt
  # Ansible's collections, for the linter to check the playbooks' arguments against.
  "${install[@]}" --requirement requirements/collections.txt
  touch "$environment/.complete"
fi
exec 9>&-

export PATH=$environment/bin:$PATH
# Bytecode is kept beside the tools, not in the checkout.
export PYTHONPYCACHEPREFIX=$environment/bytecode
unset PYTHONDONTWRITEBYTECODE
case $suite in
  unit)
    select='not lint and not scenario and not root and not network and not process and not long'
    # On every processor; the tests of one file stay together, because they share what it takes to run them.
    [ $# -gt 0 ] || set -- --quiet --numprocesses=auto --dist=loadfile
    ;;
  lint) select='lint' ;;
  long) select='long' ;;
  all) select='not long' ;;
esac
exec python -m pytest -m "$select" "$@"
