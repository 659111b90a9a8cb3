"""Build, verify and install bundles of packages for clusters without Internet.

The modules that run on nodes (``errors``, ``hashing``, ``targets``, ``manifest``, ``environment``, ``verify``,
``install``, ``pack``) need Python 3.10 and its standard library only; the builder's may use ``requirements/builder.txt``.
"""

__version__ = "0.1.0"
