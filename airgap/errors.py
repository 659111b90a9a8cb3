"""Errors that end a command with one sentence for the operator.

Raised where the fault is found, caught once, in the command line's ``main``.
"""


class AirgapError(Exception):
    """Something the operator can act on.

    The message is one sentence: what is wrong, where, and what to do. It never holds a secret or a token.
    """


class UsageError(AirgapError):
    """The command was called with arguments that do not fit together."""


class DownloadError(AirgapError):
    """A file could not be fetched, or what arrived is not what the lock names."""


class ResolutionError(AirgapError):
    """A lock or a list of packages cannot be turned into files for a target."""


class LockError(ResolutionError):
    """A lock file is unreadable, of an unknown version, or names something that cannot be carried."""


class ManifestError(AirgapError):
    """A manifest or an environment's description does not have the documented form."""


class VerificationError(AirgapError):
    """Files are damaged, missing, or not part of what was signed off."""


class SignatureError(VerificationError):
    """Nobody who may has signed, or a key cannot sign."""


class PackError(AirgapError):
    """A packed environment cannot be used."""


class InstallationError(AirgapError):
    """An environment could not be installed."""
