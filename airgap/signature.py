"""Signatures that OpenSSH makes and checks, as ``ssh-keygen -Y`` does by hand (PROTOCOL.sshsig).

Standard library only; needs ``ssh-keygen`` 8.1 or newer, which every supported release has in openssh-client.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from airgap.errors import SignatureError
from airgap.manifest import CHECKSUMS_NAME

SIGNATURE_NAME = f"{CHECKSUMS_NAME}.sig"
BUNDLE_NAMESPACE = "pag-bundle"
HAVE_NAMESPACE = "pag-have"
# Where a site says whose bundles it takes, in the form of ssh-keygen(1), ALLOWED SIGNERS.
ALLOWED_SIGNERS = Path("/etc/pag/allowed_signers")

_PROGRAM = "ssh-keygen"
_MISSING = "ssh-keygen is missing: install the distribution's package openssh-client."
_GOOD = re.compile(r'Good "[^"]*" signature .*with (?P<kind>\S+) key (?P<fingerprint>\S+)')


@dataclass(frozen=True)
class Signer:
    """Who signed."""

    kind: str
    """Of the key, as ssh-keygen calls it: ``ED25519``."""
    fingerprint: str
    """``SHA256:...``."""
    principal: str | None
    """The name that the allowed signers give the key; None where they were not asked."""

    def __str__(self) -> str:
        if self.principal is None:
            return f"{self.fingerprint} (not checked: no allowed signers)"
        return f"{self.principal} ({self.kind} {self.fingerprint})"


def site_signers() -> Path | None:
    """Return this site's allowed signers, or None where it has not said whose bundles it takes."""
    # What is there and cannot be read is no reason to check less.
    return ALLOWED_SIGNERS if ALLOWED_SIGNERS.exists() or ALLOWED_SIGNERS.is_symlink() else None


def check_key(key: Path) -> None:
    """Raise SignatureError when *key* cannot be one, so that it shows before the work rather than after it."""
    if not key.is_file():
        raise SignatureError(f"The key {key} is not there: make one with ssh-keygen -t ed25519, or name another file.")
    if shutil.which(_PROGRAM) is None:
        raise SignatureError(_MISSING)


def sign(content: bytes, key: Path, namespace: str) -> bytes:
    """Return the signature of *content* with the private *key*, or with the key in ssh-agent whose public part it is.

    ssh-keygen itself asks for a passphrase, on the terminal. The same Ed25519 or RSA key gives the same signature.
    Raises SignatureError when that key cannot sign.
    """
    return _run(
        "-q", "-Y", "sign", "-f", str(key), "-n", namespace,
        content=content,
        failure=f"The key {key} could not sign",
        advice="an encrypted key wants a terminal to ask on, or to be in ssh-agent",
        shown=sys.stderr.isatty(),
    )  # fmt: skip


def verify_signature(content: bytes, signature: bytes, signers: Path, namespace: str) -> Signer:
    """Return which of *signers*, a file of allowed signers, made the *signature* of *content* in *namespace*.

    Raises SignatureError when none of them did.
    """
    try:
        signers.open("rb").close()
    except OSError as error:
        raise SignatureError(f"{signers} cannot be read ({error.strerror}): mend that, or name another file.") from None
    from tempfile import TemporaryDirectory  # only now: most bundles have no signature

    with TemporaryDirectory() as directory:
        file = _written(directory, signature)
        failure = f"{signers} does not allow the signature's key, or the signature is of something else"
        options = ("-s", str(file), "-f", str(signers), "-n", namespace)
        found = _run("-Y", "find-principals", *options, content=content, failure=failure).decode()
        principal = next((line for line in found.splitlines() if line), None)
        if principal is None:
            raise SignatureError(f"{failure}.")
        answer = _run("-Y", "verify", "-I", principal, *options, content=content, failure=failure)
    return _signer(answer, principal)


def unchecked_signer(content: bytes, signature: bytes, namespace: str) -> Signer:
    """Return which key made the *signature* of *content* in *namespace*, whoever that is.

    Raises SignatureError when it is no such signature.
    """
    from tempfile import TemporaryDirectory  # only now: most bundles have no signature

    with TemporaryDirectory() as directory:
        file = _written(directory, signature)
        answer = _run(
            "-Y", "check-novalidate", "-s", str(file), "-n", namespace,
            content=content,
            failure="The signature is of something else",
        )  # fmt: skip
    return _signer(answer, None)


def _written(directory: str, signature: bytes) -> Path:
    file = Path(directory) / "signature"
    file.write_bytes(signature)
    return file


def _signer(answer: bytes, principal: str | None) -> Signer:
    match = _GOOD.match(answer.decode("utf-8", "replace"))
    if match is None:
        raise SignatureError("ssh-keygen's answer is not understood: use OpenSSH's own.")
    return Signer(match["kind"], match["fingerprint"], principal)


def _run(*arguments: str, content: bytes = b"", failure: str, advice: str | None = None, shown: bool = False) -> bytes:
    """Run ssh-keygen and return what it printed; raise SignatureError with *failure* and its own reason."""
    try:
        completed = subprocess.run(
            [_PROGRAM, *arguments],
            input=content,
            stdout=subprocess.PIPE,
            # On a terminal it asks for a touch of a hardware key there.
            stderr=None if shown else subprocess.PIPE,
        )
    except FileNotFoundError:
        raise SignatureError(_MISSING) from None
    if completed.returncode:
        lines = [line.strip() for line in (completed.stderr or b"").decode("utf-8", "replace").splitlines()]
        reason = next((line for line in reversed(lines) if line), "ssh-keygen said why above" if shown else "no reason")
        raise SignatureError(f"{failure} ({reason.rstrip('.')})" + (f": {advice}." if advice else "."))
    return completed.stdout
