"""The environment that a flow directory runs in: its own packs, or what the bundle on the controller has for it.

Standard library and the bundle's own package ``airgap``.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.flow_source import DEFAULT_PACK, FlowSourceError, Request, packs_by_target, read_flow

# What an environment is resolved from: when it differs from the bundle's, the bundle's environment is another one.
_LOCKS = ("pixi.lock", "requirements.txt")
_RESERVED = ("prefect", "controller", "toolkit")
_BLOCK_BYTES = 1024 * 1024


def read_source(request: Request, root: Path) -> dict[str, Any]:
    """Return what a flow directory asks for, and what its environment is made of. Raises FlowSourceError."""
    flow = read_flow(request)
    if flow["name"] in _RESERVED:
        raise FlowSourceError(
            f"A flow directory cannot be named {flow['name']}, as an environment of pag is: rename it."
        )
    return {"flow": flow, **find_environment(request, root, flow["name"])}


def bundle_environments(root: Path, name: str, directory: Path) -> dict[str, str]:
    """Return the descriptions of the bundle's environments for a flow, by target.

    Raises FlowSourceError when the bundle has none, or one for other locks than the directory's.
    """
    # The manifest has one reader, which the bundle installed beside the packages.
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.errors import ManifestError
        from airgap.hashing import sha256_of_file
        from airgap.manifest import MANIFEST_NAME, Manifest

        manifest = Manifest.from_file(root / MANIFEST_NAME)
    except (ImportError, OSError) as error:
        raise FlowSourceError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    except ManifestError as error:
        raise FlowSourceError(str(error)) from error
    folder = f"flows/{name}"
    descriptions = {
        environment.target: str(root / environment.path)
        for environment in manifest.environments
        if environment.flow == folder
    }
    advice = "pack it with 'python3 build-bundle.py pack-flow' on the connected machine and copy the pack there"
    if not descriptions:
        raise FlowSourceError(
            f"The flow directory {directory} has no packed environment, and the bundle has none for a flow {name}: "
            f"{advice}."
        )
    known = {file.path: file.sha256 for file in manifest.all_files}
    for lock in _LOCKS:
        path = directory / lock
        found = sha256_of_file(path) if path.is_file() else None
        if found != known.get(f"{folder}/{lock}"):
            raise FlowSourceError(
                f"{path} is not the one that the bundle's environment for {name} was made from: {advice}."
            )
    return descriptions


def find_environment(request: Request, root: Path, name: str) -> dict[str, Any]:
    """Return what the flow's environment is made of: ``pack`` and ``packs``, or else the bundle's ``descriptions``.

    ``pack_digests`` has the packs' SHA-256 by file name. Raises FlowSourceError.
    """
    directory = request.flow_dir.resolve()
    pack = directory / request.packed_env
    packs = {target: str(path) for target, path in packs_by_target(pack).items()}
    if pack.is_file() or packs:
        own = {"": str(pack)} if pack.is_file() else {}
        digests = {Path(path).name: _sha256(Path(path)) for path in (own | packs).values()}
        return {"pack": own.get(""), "packs": packs, "pack_digests": digests, "descriptions": {}}
    if request.packed_env != DEFAULT_PACK:
        raise FlowSourceError(f"There is no packed environment {pack} on the controller: check packed_env.")
    return {"pack": None, "packs": {}, "pack_digests": {}, "descriptions": bundle_environments(root, name, directory)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
