"""Names in pixi-pack's archive format, version "1": a plain tar of a conda channel, wheels, and two descriptions.

As pixi-pack 0.7 writes and pixi-unpack reads it::

    channel/<subdir>/<package>          channel/<subdir>/repodata.json
    environment.yml                     pixi-pack.json                    pypi/<wheel>

A *thin* pack is our own: it leaves out packages that the site has, and lists them in ``relies-on.json``::

    {"format_version": 1, "base": "<SHA-256 of the site's have.json>",
     "packages": [{"path": "conda/... or pypi/...", "sha256": "...", "size": 123}, ...]}
"""

from __future__ import annotations

FORMAT_VERSION = "1"
THIN_VERSION = "1-thin"
"""In a thin pack's metadata, so that pixi-unpack refuses it at once: "Unsupported pixi-pack version: 1-thin"."""
METADATA = "pixi-pack.json"
ENVIRONMENT = "environment.yml"
RELIES_ON = "relies-on.json"
RELIES_ON_VERSION = 1
CHANNEL = "channel/"
WHEELS = "pypi/"
REPODATA = "repodata.json"
WRITTEN_BY = "0.7.10"
"""The release of pixi-pack that this follows; readers only show it."""
