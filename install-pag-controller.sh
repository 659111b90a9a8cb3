#!/usr/bin/env bash
# Make this host the controller, as a user who may use sudo. Needs no network, and can be run again at any time: what is
# done already is left alone, what was interrupted is done again.
#
#   bash install-pag-controller.sh [--with DIR]...            in an unpacked bundle
#   bash install-pag-controller.sh [--with DIR]... [DIR]...   elsewhere: unpack the volumes that are in these directories
#                                                             (default: the script's own) to ./pag-software-bundle first
#
# --with names another unpacked bundle, which may have files that this one relies on.
# Verifies every file of the bundle, and refuses what can be refused, before it changes anything.
set -euo pipefail

readonly root=/opt/pag
readonly environment=$root/controller-env
readonly programs=(ansible ansible-config ansible-doc ansible-inventory ansible-playbook ansible-vault)
readonly program_directory=/usr/local/bin
readonly pag_command=$program_directory/pag
readonly playbooks=$root/playbooks
readonly python=/usr/bin/python3
readonly lock_file=/run/lock/pag-controller.lock
readonly bundle_name=pag-software-bundle

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
readonly here
bundle=$here
changed=no
lock=
site=
others=()
directories=()
just_unpacked=()

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

step() {
    printf '==> %s\n' "$*"
}

read_arguments() {
    while (($#)); do
        case $1 in
            --with)
                (($# > 1)) || fail "--with needs the directory of an unpacked bundle."
                set -- "--with=$2" "${@:3}"
                ;;
            --with=*)
                [[ -f ${1#*=}/manifest.json ]] || fail "${1#*=} is no unpacked bundle: name one with --with, or leave it out."
                others+=("$(realpath -- "${1#*=}")")
                shift
                ;;
            -h | --help)
                sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' -- "${BASH_SOURCE[0]}"
                exit 0
                ;;
            -*) fail "$1 is no option: see --help." ;;
            *)
                [[ -d $1 ]] || fail "$1 is no directory: name the directories that have the bundle's volumes."
                directories+=("$(realpath -- "$1")")
                shift
                ;;
        esac
    done
}

# --- Volumes

# The index of the volumes. Every disc may have one; they must be of the same bundle.
find_index() {
    local directory candidate found=
    for directory in "${directories[@]}"; do
        for candidate in "$directory"/*.tar.gz.sha256; do
            [[ -z $found ]] || cmp --silent -- "$found" "$candidate" \
                || fail "$found and $candidate are of two bundles: name the directories of one."
            found=$candidate
        done
    done
    [[ -n $found ]] || fail "neither an unpacked bundle nor the index of volumes (*.tar.gz.sha256) is in ${directories[*]}: name the directories that have the volumes, or unpack the bundle and run the script there."
    printf '%s\n' "$found"
}

# Prints where the volume is, when it is whole; else says on standard error what is wrong with it.
find_volume() {
    local name=$1 sha256=$2 directory actual damaged=
    for directory in "${directories[@]}"; do
        [[ -f $directory/$name ]] || continue
        actual=$(sha256sum < "$directory/$name") || actual=unreadable
        if [[ ${actual%% *} == "$sha256" ]]; then
            printf '%s\n' "$directory/$name"
            return
        fi
        damaged=$directory/$name
    done
    if [[ -n $damaged ]]; then
        printf '    damaged: %s\n' "$damaged" >&2
    else
        printf '    missing: %s\n' "$name" >&2
    fi
    return 1
}

# Sets volumes to the paths of all volumes, in order; refuses when one is missing or damaged, naming all of them.
find_volumes() {
    local index=$1 archive sha256 name path faults=0
    archive=$(basename -- "$index" .sha256)
    volumes=()
    while read -r sha256 name; do
        [[ $sha256 =~ ^[0-9a-f]{64}$ && $name == "$archive"?(.+([0-9])) ]] \
            || fail "$index is no index of volumes: copy it over again."
        [[ $name != "$archive" ]] || continue
        if path=$(find_volume "$name" "$sha256"); then
            step "$path is whole"
            volumes+=("$path")
        else
            faults=$((faults + 1))
        fi
    done < "$index"
    ((faults == 0)) || fail "$faults of $((faults + ${#volumes[@]})) volumes are missing or damaged, see above: copy them over, and name all directories that have volumes."
    ((${#volumes[@]} > 0)) || fail "$index names no volumes: copy it over again."
}

# Unpacks the volumes to ./pag-software-bundle. What is there already stays as it is until all is verified and checked;
# then the new files take the place of the old ones, and the operator's own files stay.
unpack_volumes() {
    local destination=$PWD/$bundle_name part=$PWD/.$bundle_name.part index hold volumes
    [[ ! -f manifest.json ]] || fail "$PWD is an unpacked bundle: go to the directory above it, and run this there."
    [[ -w . ]] || fail "$PWD cannot be written to: go to a directory where the bundle can be unpacked."
    [[ ! -e $destination || -f $destination/manifest.json ]] \
        || fail "$destination is there and is no unpacked bundle: move it away."
    step "checking the volumes"
    index=$(find_index) || exit 1
    find_volumes "$index"
    exec {hold}< .
    flock --nonblock "$hold" || fail "another installation unpacks a bundle in $PWD: wait for it."
    step "unpacking ${#volumes[@]} volumes"
    rm --recursive --force -- "$part"
    mkdir -- "$part"
    # The volumes one after the other are the archive; nothing joins them on the disk.
    cat -- "${volumes[@]}" | tar --extract --gzip --no-same-owner --directory "$part" --strip-components 1 \
        || fail "the volumes could not be unpacked; make room in $PWD, and run this again."
    bundle=$part
    # Nobody has worked there: what the bundle does not list came with the medium.
    just_unpacked=(--just-unpacked)
    check
    wait_for_lock
    hold_site
    bundle_python airgap.controller move "$part" "$destination" > /dev/null || exit 1
    exec {hold}<&- {site}<&-
    exec bash "$destination/install-pag-controller.sh" "${others[@]/#/--with=}"
}

# --- The bundle

# The bundle's own Python code. -B because the unpacked bundle stays as it was verified; the prefix, because compiled code
# that lies in it is nothing that was verified.
bundle_python() {
    (cd -- "$bundle" && env -u PYTHONHOME PYTHONPATH="$bundle" "$python" -B -X pycache_prefix=/nonexistent -m "$@")
}

# The toolkit's Python code. From /, because Python would take modules from the current directory first.
toolkit_python() {
    (cd / && env -u PYTHONHOME PYTHONPATH="$root/toolkit/current" "$python" -B -m "$@")
}

# What installs or checks the bundle: airgap.controller with the bundles that it may rely on.
controller() {
    local command=$1
    bundle_python airgap.controller "$command" "$bundle" "$root" "${others[@]/#/--with=}"
}

become_root() {
    [[ $EUID -ne 0 ]] || return 0
    command -v sudo > /dev/null || fail "needs root, and there is no sudo: run it as root."
    exec sudo -- bash "$bundle/install-pag-controller.sh" "${others[@]/#/--with=}" \
        || fail "sudo does not work here: run it as root."
}

# Everything that can be refused is refused here, before anything is changed.
check() {
    local program link other
    step "verifying the bundle"
    # All of these say themselves what is wrong.
    bundle_python airgap.controller verify "$bundle" "$root" "${just_unpacked[@]}" || exit 1
    for other in "${others[@]}"; do
        step "verifying $other"
        bundle_python airgap.controller verify "$other" "$root" || exit 1
    done
    target=$(controller check) || exit 1
    for program in "${programs[@]}"; do
        link=$program_directory/$program
        if [[ -e $link && ! -L $link ]] || [[ -L $link && $(readlink -- "$link") != "$root"/* ]]; then
            fail "$link is another Ansible's: move it away and run this again."
        fi
    done
    if [[ -e $pag_command || -L $pag_command ]] && ! grep --quiet --fixed-strings install-pag-controller.sh -- "$pag_command"; then
        fail "$pag_command is another program: move it away and run this again."
    fi
}

check_python() {
    [[ -x $python ]] || fail "$python is missing: install the distribution's package python3."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "$python is older than 3.10: use a supported release (see README.md)."
}

# Waits for another installation, or for what an interrupted one left running.
hold_lock() {
    exec {lock}> "$lock_file"
    flock "$lock"
}

# The same, without being root: before a directory changes that it may be reading.
wait_for_lock() {
    local other
    [[ -e $lock_file ]] || return 0
    exec {other}< "$lock_file"
    flock "$other"
    exec {other}<&-
}

# Keeps playbooks from starting, and does not change what one is reading: they lock the same directory
# (ansible/callback_plugins/site_lock.py). For a moment it may still be with what an interrupted installation left running.
hold_site() {
    local place=$root
    [[ -d $root ]] || place=/dev/null
    exec {site}< "$place"
    flock --wait 5 "$site" || fail "a playbook is at work on this site: wait until it has ended, and run this again; nothing was changed."
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
    # Without the locks, which a service that a package starts would never give back.
    result=$(cd -- "$bundle/ansible/module_utils" && "$python" -B mirror_apt.py \
        --directory "$root/mirror/apt/$target" rsync openssh-client sshpass {lock}>&- {site}<&-) \
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

# The operator's command, and where it finds the playbooks when it is called elsewhere.
install_command() {
    local source=$root/airgap/pag_command.py
    if ! cmp --silent -- "$source" "$pag_command"; then
        # At every moment there is the old one or the new one.
        install --mode 0755 -- "$source" "$pag_command.new"
        mv --force -- "$pag_command.new" "$pag_command"
        changed=yes
    fi
    if [[ ! -L $playbooks || $(readlink -- "$playbooks") != "$bundle/ansible" ]]; then
        ln -sfn -- "$bundle/ansible" "$playbooks"
        changed=yes
    fi
}

# The operator's copy of the example gets its passwords, and its mode from it.
protect_secrets() {
    chmod 0600 -- "$bundle/ansible/secrets.yml.example"
}

# The password that secrets.yml is encrypted with, where ansible.cfg expects it: the operator's file, made once and never
# replaced. The operator makes it, not root, who would follow a link out of the home.
make_vault_password() {
    local operator=${SUDO_USER:-root} made
    # shellcheck disable=SC2016 # The operator's shell expands it.
    made=$(runuser --user "$operator" -- env HOME="$(getent passwd -- "$operator" | cut --delimiter=: --fields=6)" bash -c '
        set -euo pipefail
        umask 077
        directory=$HOME/.config/pag file=$HOME/.config/pag/vault-password
        [[ ! -e $file ]] || exit 0
        mkdir --parents -- "$directory"
        head --bytes=32 /dev/urandom | base64 > "$file.new"
        # A file that is there meanwhile stays.
        ln -- "$file.new" "$file"
        rm -- "$file.new"
        printf "%s\n" "$file"
    ') || fail "the vault's password could not be made in the home of $operator: see above."
    [[ -z $made ]] || printf '\nThe password of the vault of secrets.yml is new, in %s: keep a copy elsewhere.\n' "$made"
}

say_what_next() {
    if [[ $changed == no ]]; then
        printf '\nThis bundle is installed already; nothing was changed.\n'
    else
        printf '\nThis host is the controller now.\n'
    fi
    printf '\nNext:\n    cd %s/ansible\n' "$bundle"
    if [[ -e $bundle/ansible/inventory.yml && -e $bundle/ansible/secrets.yml ]]; then
        cat << 'NEXT'
    ansible-playbook -i inventory.yml upgrade.yml     # where a cluster runs: node by node, with the runs under way
    ansible-playbook -i inventory.yml main.yml        # where none does yet
NEXT
        return
    fi
    # Not over an inventory and secrets that are there.
    [[ -e $bundle/ansible/inventory.yml ]] || echo "    cp inventory.yml.example inventory.yml        # edit: your nodes"
    if [[ ! -e $bundle/ansible/secrets.yml ]]; then
        echo "    cp secrets.yml.example secrets.yml            # edit: your passwords"
        echo "    ansible-vault encrypt secrets.yml             # later: ansible-vault edit secrets.yml"
    fi
    cat << 'NEXT'
    ansible-playbook -i inventory.yml ssh-hosts.yml   # compare the fingerprints
    ansible all -i inventory.yml -m ping
    ansible-playbook -i inventory.yml main.yml --tags prefect-server
    ansible-playbook -i inventory.yml main.yml --tags prefect-worker
NEXT
}

install_bundle() {
    become_root
    hold_lock
    hold_site
    check
    step "installing packages below $root"
    count controller populate
    step "installing Debian packages"
    install_packages
    step "installing Ansible"
    install_environment
    link_programs
    install_command
    count controller finish
    protect_secrets
    make_vault_password
    say_what_next
}

main() {
    umask 022
    shopt -s nullglob
    export LC_ALL=C.UTF-8
    read_arguments "$@"
    check_python
    if [[ ! -f $here/manifest.json ]]; then
        ((${#directories[@]} > 0)) || directories=("$here")
        unpack_volumes
    elif ((${#directories[@]} > 0)); then
        fail "$here is an unpacked bundle: run the script without directories, or the one that came with the volumes."
    else
        install_bundle
    fi
}

main "$@"
