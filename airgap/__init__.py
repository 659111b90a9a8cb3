"""Build, verify and install bundles of packages for clusters without Internet.

The modules that run on the controller and on nodes (``verify``, ``controller``, ``toolkit``, ``install``, ``pack`` and
what they import) need Python 3.10, its standard library, and the two wheels of the toolkit where they install packages.
The builder's modules may use ``requirements/builder.txt``.
"""

__version__ = "0.1.0"
