"""Names in pixi-pack's archive format, version "1": a plain tar of a conda channel, wheels, and two descriptions.

As pixi-pack 0.7 writes and pixi-unpack reads it::

    channel/<subdir>/<package>          channel/<subdir>/repodata.json
    environment.yml                     pixi-pack.json                    pypi/<wheel>
"""

from __future__ import annotations

FORMAT_VERSION = "1"
METADATA = "pixi-pack.json"
ENVIRONMENT = "environment.yml"
CHANNEL = "channel/"
WHEELS = "pypi/"
REPODATA = "repodata.json"
WRITTEN_BY = "0.7.10"
"""The release of pixi-pack that this follows; readers only show it."""
