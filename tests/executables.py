"""Packs as ``pixi-pack --create-executable`` writes them (its src/pack.rs and src/header.sh, version 0.7.10)."""

from __future__ import annotations

import base64

# What runs is shortened to what finds the archive; the markers and the last lines are pixi-pack's.
HEADER = b"""#!/usr/bin/env bash

set -euo pipefail
TEMPDIR="$(mktemp -d)"

archive_begin=$(grep -anm 1 "^@@END_HEADER@@" "$0" | awk -F: '{print $1}')
archive_end=$(grep -anm 1 "^@@END_ARCHIVE@@" "$0" | awk -F: '{print $1}')

archive_begin=$((archive_begin + 2))
archive_end=$((archive_end - 1))
pixi_pack_start=$((archive_end + 2))

sed -n "$archive_begin,${archive_end}p" "$0" | base64 -d > "$TEMPDIR/archive.tar"
sed -n "$pixi_pack_start,\\$p" "$0" | base64 -d > "$TEMPDIR/pixi-unpack"

chmod +x "$TEMPDIR/pixi-unpack"

"$TEMPDIR/pixi-unpack" "$@" "$TEMPDIR/archive.tar"

rm -rf "$TEMPDIR"

exit 0
# shellcheck disable=SC2317
@@END_HEADER@@
"""


def make_executable(archive: bytes, pixi_unpack: bytes) -> bytes:
    """Return the script that unpacks *archive*, a pack's tar, with the program *pixi_unpack*."""
    encoded = [base64.b64encode(content) for content in (archive, pixi_unpack)]
    return HEADER + b"\n" + encoded[0] + b"\n@@END_ARCHIVE@@\n" + encoded[1]
