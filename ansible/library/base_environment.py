#!/usr/bin/python
"""Ansible module: which base environment the controller has the nodes run on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base_environment
short_description: Choose which bundle's base environment the nodes run on
description:
  - Puts the descriptions of a base environment into their places on the controller, from where the role common takes
    them. They come from the bundles whose lists are kept. Runs on the controller.
options:
  root:
    description: Where bundles are installed.
    type: path
    required: true
  name:
    description: Name of the environment.
    type: str
    default: prefect
  directories:
    description: >-
      The environment's directory by target, C(<name>-<the digest's first twelve digits>). Left out, the environment is
      the one of the bundle that was installed last.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Let the nodes run on the environment that they had
  base_environment:
    root: /opt/pag
    directories: {debian-12-x86_64: prefect-0123456789ab}
"""

RETURN = r"""
environments:
  description: >-
    By target, the chosen environment: C(directory), C(version) of Prefect, and C(bundle), the version of the latest
    bundle that has it.
  type: dict
  returned: success
"""

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class ChoiceError(Exception):
    """There is no such environment; the message is one sentence for the operator."""


def choose(root: Path, name: str, directories: dict[str, str] | None, *, check: bool) -> dict[str, Any]:
    """Put the descriptions into their places, unless *check*; return the module's result. Raises ChoiceError."""
    # What knows the site came with the bundle. Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.durable import flush, has_content, place
        from airgap.environment import Environment
        from airgap.errors import AirgapError
        from airgap.site import Site
    except ImportError as error:
        raise ChoiceError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    site = Site(root)
    changed, chosen = False, {}
    try:
        installed = site.installed()
        if installed is None:
            raise ChoiceError(f"There is no bundle below {root}: run install-pag-controller.sh.")
        manifests = [installed] if directories is None else site.manifests()[::-1]
        wanted = _wanted(manifests, name, directories)
        for target, (manifest, path, sha256) in wanted.items():
            source, destination = site.stored(sha256), root / path
            if not has_content(source, sha256):
                raise ChoiceError(
                    f"The controller no longer has {path} of bundle {manifest.bundle_version}: install that bundle "
                    "again."
                )
            environment = Environment.from_file(source)
            version = environment.version_of("prefect")
            chosen[target] = {
                "directory": environment.directory_name, "version": version, "bundle": manifest.bundle_version,
            }  # fmt: skip
            if not has_content(destination, sha256):
                changed = True
                if not check:
                    place(source, destination, sha256, link=True)
        if changed and not check:
            flush(root)
    except (AirgapError, OSError) as error:
        raise ChoiceError(str(error)) from error
    return {"changed": changed, "environments": chosen}


def _wanted(manifests: list[Any], name: str, directories: dict[str, str] | None) -> dict[str, tuple[Any, str, str]]:
    """Return manifest, path and SHA-256 of the descriptions by target; the first of *manifests* that has one counts."""
    found: dict[str, tuple[Any, str, str]] = {}
    for manifest in filter(None, manifests):
        sums = {file.path: file.sha256 for file in manifest.all_files}
        for entry in manifest.environments:
            directory = f"{name}-{entry.digest[:12]}"
            if entry.name == name and (directories is None or directories.get(entry.target) == directory):
                found.setdefault(entry.target, (manifest, entry.path, sums[entry.path]))
    missing = sorted(set(directories or ()) - set(found))
    if missing:
        listed = ", ".join(f"{(directories or {})[target]} ({target})" for target in missing)
        raise ChoiceError(
            f"None of the bundles that the controller keeps has the environment {listed}: install the bundle that has "
            "it, and then this one again."
        )
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "name": {"type": "str", "default": "prefect"},
            "directories": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        module.exit_json(
            **choose(Path(parameters["root"]), parameters["name"], parameters["directories"], check=module.check_mode)
        )
    except ChoiceError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
