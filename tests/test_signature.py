from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import allow, make_key

from airgap import signature as module
from airgap.errors import SignatureError
from airgap.signature import check_key, sign, site_signers, unchecked_signer, verify_signature

CONTENT = b"what is signed\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        make_key(directory / name)
    return directory


def test_a_signature_names_its_signer(keys: Path, tmp_path: Path) -> None:
    signature = sign(CONTENT, keys / "alice", "pag-bundle")
    signers = allow(tmp_path / "signers", keys / "mallory", keys / "alice", options='namespaces="pag-*"')
    signer = verify_signature(CONTENT, signature, signers, "pag-bundle")
    unchecked = unchecked_signer(CONTENT, signature, "pag-bundle")
    fingerprint = subprocess.run(
        ["ssh-keygen", "-l", "-f", keys / "alice.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert str(signer) == f"alice@site (ED25519 {fingerprint})"
    assert str(unchecked) == f"{fingerprint} (not checked: no allowed signers)"


def test_the_same_key_gives_the_same_signature(keys: Path) -> None:
    assert sign(CONTENT, keys / "alice", "pag-bundle") == sign(CONTENT, keys / "alice", "pag-bundle")


def test_who_is_not_allowed(keys: Path, tmp_path: Path) -> None:
    signature = sign(CONTENT, keys / "mallory", "pag-bundle")
    with pytest.raises(SignatureError, match="does not allow the signature's key"):
        verify_signature(CONTENT, signature, allow(tmp_path / "signers", keys / "alice"), "pag-bundle")


@pytest.mark.parametrize("options", ['namespaces="pag-have"', 'valid-before="20200101"', "nonsense"])
def test_an_allowed_signer_for_something_else(keys: Path, tmp_path: Path, options: str) -> None:
    signature = sign(CONTENT, keys / "alice", "pag-bundle")
    signers = allow(tmp_path / "signers", keys / "alice", options=options)
    with pytest.raises(SignatureError):
        verify_signature(CONTENT, signature, signers, "pag-bundle")


def test_a_signature_of_something_else(keys: Path, tmp_path: Path) -> None:
    signers = allow(tmp_path / "signers", keys / "alice")
    signature = sign(CONTENT, keys / "alice", "pag-have")
    other = sign(b"other\n", keys / "alice", "pag-bundle")
    for wrong in (signature, other, b"", b"junk\n", signature[:100]):
        with pytest.raises(SignatureError, match="is of something else"):
            verify_signature(CONTENT, wrong, signers, "pag-bundle")
        with pytest.raises(SignatureError, match="is of something else"):
            unchecked_signer(CONTENT, wrong, "pag-bundle")


def test_signers_that_cannot_be_read(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match=r"signers cannot be read \(No such file"):
        verify_signature(CONTENT, sign(CONTENT, keys / "alice", "n"), tmp_path / "signers", "n")


def test_keys_that_cannot_sign(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="is not there: make one with ssh-keygen -t ed25519"):
        check_key(tmp_path / "nothing")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(SignatureError, match=r"The key .*junk could not sign \(.*\): an encrypted key wants"):
        sign(CONTENT, tmp_path / "junk", "n")


def test_ssh_keygen_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "key").touch()
    for call in (lambda: sign(CONTENT, tmp_path / "key", "n"), lambda: check_key(tmp_path / "key")):
        with pytest.raises(SignatureError, match="install the distribution's package openssh-client"):
            call()


def encrypted(directory: Path) -> Path:
    key = directory / "encrypted"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "s3cr3t", "-C", "", "-f", key], check=True)
    return key


_PROGRAM = """
import sys
from pathlib import Path
from airgap.errors import SignatureError
from airgap.signature import sign
try:
    sys.stdout.buffer.write(sign(b"x", Path(sys.argv[1]), "n"))
except SignatureError as error:
    sys.exit(str(error))
"""


def test_an_encrypted_key_without_a_terminal(tmp_path: Path, repository: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "DISPLAY")}
    completed = subprocess.run(
        [sys.executable, "-c", _PROGRAM, encrypted(tmp_path)],
        env={**variables, "PYTHONPATH": str(repository)},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert completed.returncode == 1
    assert "incorrect passphrase" in completed.stderr
    assert "an encrypted key wants a terminal to ask on, or to be in ssh-agent" in completed.stderr


def test_an_encrypted_key_is_asked_for_on_the_terminal(tmp_path: Path, repository: Path) -> None:
    key, out = encrypted(tmp_path), tmp_path / "signature"
    child, terminal = pty.fork()
    if not child:
        os.environ["PYTHONPATH"] = str(repository)
        os.environ.pop("SSH_AUTH_SOCK", None)
        os.execv("/bin/sh", ["sh", "-c", f"'{sys.executable}' -c '{_PROGRAM}' '{key}' > '{out}'"])  # noqa: S606
    shown = b""
    while b"passphrase" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"s3cr3t\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert unchecked_signer(b"x", out.read_bytes(), "n").kind == "ED25519"


def test_a_site_s_signers_count_when_the_file_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "allowed_signers"
    monkeypatch.setattr(module, "ALLOWED_SIGNERS", path)
    assert site_signers() is None
    path.symlink_to("nowhere")
    assert site_signers() == path
    path.unlink()
    path.touch()
    assert site_signers() == path
