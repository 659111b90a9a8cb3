"""Prints what a bundle holds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from airgap.progress import human_size
from airgap.verify import Bundle


def print_bundle(bundle: Bundle) -> None:
    """Print the receipt, the environments, and the files by kind."""
    manifest = bundle.manifest
    console = Console(highlight=False)
    console.print(str(bundle.receipt), markup=False)
    console.print(f"because  {manifest.interpreter_reason}", markup=False)
    environments = Table("environment", "target", "python", "prefect", "digest", box=None, header_style="")
    for environment in manifest.environments:
        environments.add_row(
            environment.name,
            environment.target,
            environment.interpreter,
            environment.prefect_version or "-",
            environment.digest[:12],
        )
    console.print()
    console.print(environments)
    kinds = Table("kind", "files", "size", box=None, header_style="")
    for kind in sorted({file.kind for file in manifest.files}):
        files = [file for file in manifest.files if file.kind == kind]
        kinds.add_row(kind, str(len(files)), human_size(sum(file.size for file in files)))
    console.print()
    console.print(kinds)
