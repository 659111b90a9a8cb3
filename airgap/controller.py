"""Install a bundle where the playbooks expect it: ``/opt/pag`` on the controller.

Called by ``install-pag-controller.sh``, in this order. Standard library only.

    python3 -m airgap.controller verify BUNDLE ROOT      verify every file; print the receipt
    python3 -m airgap.controller check BUNDLE ROOT       refuse what cannot be installed; print this host's target
    python3 -m airgap.controller populate BUNDLE ROOT    link or copy the files; print how many changed
    python3 -m airgap.controller finish BUNDLE ROOT      record the bundle as the installed one; print the same

    python3 -m airgap.controller move BUNDLE DIRECTORY   move an unpacked bundle over an older one

``verify --just-unpacked`` is for a directory in which nobody has worked: it may have what the bundle lists, no more.
``--with DIR`` names other unpacked bundles, verified too, that have files which the bundle relies on.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from airgap.errors import AirgapError, InstallationError
from airgap.populate import Contents, check_conflicts, check_reliance, check_room, finish, populate
from airgap.signature import site_signers
from airgap.site import KEPT_BUNDLES, Site, read_manifest
from airgap.targets import host_target
from airgap.unpacked import known_files, move_over, prepare
from airgap.verify import Receipt, verify

# The controller's own environment and the toolkit, unpacked; measured at a good 400 MB.
_ENVIRONMENTS_BYTES = 600_000_000
_MINIMUM_PYTHON = (3, 10)


def check(bundle: Path, site: Site, contents: Contents) -> str:
    """Return the name of the target that this host is; nothing is changed.

    Raises AirgapError when the bundle was not built for it, its Python is not the distribution's, the file system is
    too full, files that the bundle relies on are missing, or it has other packages under the names of used ones.
    """
    manifest = read_manifest(bundle)
    names = [target.name for target in manifest.targets]
    target = host_target(platform.machine())
    if target.name not in names:
        raise InstallationError(
            f"This bundle was built for {', '.join(names)}, and this host is {target.name}: "
            "build it with --target for the controller's system as well."
        )
    python = ".".join(platform.python_version_tuple()[:2])
    if sys.version_info < _MINIMUM_PYTHON or python != target.release.python:
        raise InstallationError(
            f"/usr/bin/python3 is version {python} instead of {target.release.name}'s own {target.release.python}: "
            "restore the distribution's package python3."
        )
    check_reliance(manifest, site, contents)
    check_conflicts(manifest, site)
    check_room(bundle, manifest, site, contents, _ENVIRONMENTS_BYTES)
    return target.name


def verify_unpacked(bundle: Path, site: Site, *, just_unpacked: bool = False) -> Receipt:
    """Return the receipt of the unpacked *bundle*; errors as of ``verify``.

    Files of older bundles may lie in it, and the operator's own, unless it was *just_unpacked* into a new directory.
    """
    if just_unpacked:
        return verify(bundle, signers=site_signers(), in_use=False).receipt
    prepare(bundle, site)
    return verify(bundle, signers=site_signers(), known=known_files(bundle, site)).receipt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    parser = argparse.ArgumentParser(prog="airgap.controller", description="Install a bundle on the controller.")
    parser.add_argument("command", choices=("verify", "check", "populate", "finish", "move"))
    parser.add_argument("bundle", type=Path, help="the unpacked bundle")
    parser.add_argument("root", type=Path, help="where to install it, or to move it")
    parser.add_argument("--with", dest="others", type=Path, action="append", default=[], help="another unpacked bundle")
    parser.add_argument("--just-unpacked", action="store_true", help="verify that nothing but the bundle is there")
    parser.add_argument("--keep", type=int, default=KEPT_BUNDLES, help="how many bundles' lists to keep")
    options = parser.parse_args(arguments)
    try:
        result = _run(options)
    except AirgapError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or options.root}: {error.strerror}: mend that and run this again.\n")
        return 1
    sys.stdout.write(f"{result}\n")
    return 0


def _run(options: argparse.Namespace) -> str | int:
    bundle, site = options.bundle.resolve(), Site(options.root.absolute())
    match options.command:
        case "verify":
            return str(verify_unpacked(bundle, site, just_unpacked=options.just_unpacked))
        case "check":
            return check(bundle, site, Contents.of(options.others))
        case "populate":
            return populate(bundle, site, Contents.of(options.others))
        case "finish":
            return finish(bundle, site, options.keep)
    move_over(bundle, options.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
