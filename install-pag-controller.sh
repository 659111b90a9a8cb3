#!/usr/bin/env bash
# Make this host the controller: run it from the unpacked bundle, as a user who may use sudo.
#
# Verifies every file of the bundle before it changes anything, needs no network, and can be run again at any time:
# what is done already is left alone, what was interrupted is done again.
set -euo pipefail

readonly root=/opt/pag
readonly environment=$root/controller-env
readonly programs=(ansible ansible-config ansible-doc ansible-inventory ansible-playbook ansible-vault)
readonly program_directory=/usr/local/bin
readonly python=/usr/bin/python3

bundle=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
readonly bundle
changed=no
lock=

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

step() {
    printf '==> %s\n' "$*"
}

# The bundle's own Python code. -B because the unpacked bundle stays as it was verified; the prefix, because compiled code
# that lies in it is nothing that was verified.
bundle_python() {
    (cd -- "$bundle" && env -u PYTHONHOME PYTHONPATH="$bundle" "$python" -B -X pycache_prefix=/nonexistent -m "$@")
}

# The toolkit's Python code. From /, because Python would take modules from the current directory first.
toolkit_python() {
    (cd / && env -u PYTHONHOME PYTHONPATH="$root/toolkit/current" "$python" -B -m "$@")
}

become_root() {
    [[ $EUID -ne 0 ]] || return 0
    command -v sudo > /dev/null || fail "needs root, and there is no sudo: run it as root."
    exec sudo -- bash "$bundle/install-pag-controller.sh" "$@" || fail "sudo does not work here: run it as root."
}

# Everything that can be refused is refused here, before anything is changed.
check() {
    [[ -x $python ]] || fail "$python is missing: install the distribution's package python3."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "$python is older than 3.10: use a supported release (see README.md)."
    [[ -f $bundle/manifest.json ]] || fail "$bundle is no unpacked bundle (it has no manifest.json): unpack the bundle and run it there."
    local program link
    for program in "${programs[@]}"; do
        link=$program_directory/$program
        if [[ -e $link && ! -L $link ]] || [[ -L $link && $(readlink -- "$link") != "$root"/* ]]; then
            fail "$link is another Ansible's: move it away and run this again."
        fi
    done
    step "verifying the bundle"
    # Both say themselves what is wrong.
    bundle_python airgap.verify "$bundle" || exit 1
    target=$(bundle_python airgap.controller check "$bundle" "$root") || exit 1
    readonly target
}

# Waits for another installation, or for what an interrupted one left running.
hold_lock() {
    exec {lock}> /run/lock/pag-controller.lock
    flock "$lock"
}

# Notes whether a command that prints its number of changes changed anything.
count() {
    local number
    number=$("$@") || fail "interrupted here; it is safe to run this again."
    [[ $number == 0 ]] || changed=yes
}

# The same for one that prints JSON with "changed".
count_json() {
    local result
    result=$("$@") || fail "interrupted here; it is safe to run this again."
    [[ $result == *'"changed": false'* ]] || changed=yes
}

install_packages() {
    local result
    # Without the lock, which a service that a package starts would never give back.
    result=$(cd -- "$bundle/ansible/module_utils" && "$python" -B mirror_apt.py \
        --directory "$root/mirror/apt/$target" rsync openssh-client sshpass {lock}>&-) \
        || fail "the packages of this host are as apt left them; see above."
    [[ -z $result ]] || changed=yes
}

install_environment() {
    count_json bundle_python airgap.toolkit \
        --description "$root/environments/toolkit.$target.json" \
        --mirror "$root/mirror" \
        --root "$root/toolkit" \
        --package "$root/airgap"
    count_json toolkit_python airgap.install \
        --description "$root/environments/controller.$target.json" \
        --mirror "$root/mirror" \
        --root "$root/envs" \
        --cache "$root/cache" \
        --link "$environment"
}

link_programs() {
    local program link
    mkdir -p -- "$program_directory"
    for program in "${programs[@]}"; do
        link=$program_directory/$program
        if [[ ! -L $link || $(readlink -- "$link") != "$environment/env/bin/$program" ]]; then
            ln -sfn -- "$environment/env/bin/$program" "$link"
            changed=yes
        fi
    done
}

say_what_next() {
    if [[ $changed == no ]]; then
        printf '\nThis bundle is installed already; nothing was changed.\n'
    else
        printf '\nThis host is the controller now.\n'
    fi
    cat << NEXT

Next:
    cd $bundle/ansible
    cp inventory.yml.example inventory.yml        # edit: your nodes
    cp secrets.yml.example secrets.yml            # edit: your passwords
    ansible all -i inventory.yml -m ping
    ansible-playbook -i inventory.yml main.yml --tags prefect-server
    ansible-playbook -i inventory.yml main.yml --tags prefect-worker
NEXT
}

main() {
    become_root "$@"
    umask 022
    export LC_ALL=C.UTF-8
    check
    hold_lock
    step "installing packages below $root"
    count bundle_python airgap.controller populate "$bundle" "$root"
    step "installing Debian packages"
    install_packages
    step "installing Ansible"
    install_environment
    link_programs
    count bundle_python airgap.controller finish "$bundle" "$root"
    say_what_next
}

main "$@"
