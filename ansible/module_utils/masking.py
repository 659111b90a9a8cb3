"""Take secrets out of texts: by their known values in every usual spelling, and by what secrets look like.

Standard library only.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "[masked]"

# Shorter values would be found in words that have nothing to do with them; patterns find them where they are named.
_SHORTEST = 4

# How settings that hold secrets are called, whatever stands before and after that. Bounded, as all that is repeated:
# a text may be one long word.
_PART = r"[\w.-]{0,100}"
_NAME = (
    rf"{_PART}(?:passw(?:or)?d|passwd|passphrase|_pass\b|\bpass\b|secret|token|api[_-]?key|auth[_-]?(?:key|string)"
    rf"|credential|(?:private|access|signing|encryption)[_-]?key|connection[_-]?(?:url|string)|\bpwd\b){_PART}"
)
SECRET_NAME = re.compile(_NAME, re.IGNORECASE)

# In quotes that are escaped, in double and single quotes, without any (perhaps with a piece masked), never closed.
_VALUE = (
    r"""(?P<value>\\{1,8}"[^"\n]*?\\{1,8}"|"(?:[^"\\\n]|\\.)*"|'(?:[^'\n]|'')*'"""
    r"""|(?:\[masked\]|[^\s,;&"'}\])])+|["'][^\s"']+)"""
)

# What is masked, by the name under which it is counted. A group "value" is replaced, and without one the whole match.
_PATTERNS: dict[str, re.Pattern[str]] = {
    "private key": re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
    ),
    "vault": re.compile(r"\$ANSIBLE_VAULT;[^\n]*(?:\n[ \t]*[0-9a-fA-F]+[ \t]*(?=\n|\Z))*"),
    "login header": re.compile(
        r"(?:proxy-)?authorization[\"']?\s*[:=]\s*"
        r"(?P<value>[\"']?(?:basic|bearer|digest|token|negotiate)?[ \t]*[^\s\"',]+)",
        re.IGNORECASE,
    ),
    "cookie": re.compile(r"\b(?:set-)?cookie[\"']?\s*:\s*(?P<value>[^\n]+)", re.IGNORECASE),
    "login in an address": re.compile(
        r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://[^\s/:@\"']{0,200}:(?P<value>[^\s/\"']{1,500})@", re.IGNORECASE
    ),
    # What a database was asked with: parameters and results of runs.
    "parameters": re.compile(r"(?:\[parameters: |DETAIL:\s+parameters: )(?P<value>[^\n]*)", re.IGNORECASE),
    "named": re.compile(rf"(?<![\w.-]){_NAME}\\{{0,8}}[\"']?\s*[=:]\s*{_VALUE}", re.IGNORECASE),
    "option": re.compile(rf"(?<![\w-])--?(?!-){_NAME}[ \t]+(?P<value>[^\s-][^\s]*)", re.IGNORECASE),
    "token": re.compile(
        r"\b(?:eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|pn[ub]_\w{10,}"
        r"|xox[abprs]-[\w-]{10,}|A(?:KI|SI)A[0-9A-Z]{16})"
    ),
}


class Masker:
    """Replaces secrets in texts, and counts what it replaced."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the values that are known to be secret; of logins (``user:password``) the password is one too."""
        self.counts: Counter[str] = Counter()
        values = set()
        for secret in secrets:
            values |= {secret, secret.partition(":")[2]}
        spellings = {spelling for value in values if len(value) >= _SHORTEST for spelling in _spellings(value)}
        longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def mask(self, text: str) -> str:
        """Return *text* with a mark in place of each secret."""
        if self._known is not None:
            text, count = self._known.subn(MASK, text)
            self.counts["known value"] += count
        for name, pattern in _PATTERNS.items():
            text = pattern.sub(lambda match, name=name: self._replaced(name, match), text)  # type: ignore[misc]
        return text

    def document(self, document: Any) -> Any:
        """Return *document*, what JSON can hold, with its texts masked; its form stays as it is."""
        if isinstance(document, dict):
            return {key: self._entry(str(key), value) for key, value in document.items()}
        if isinstance(document, list):
            return [self.document(value) for value in document]
        return self.mask(document) if isinstance(document, str) else document

    def settings(self, text: str, shown: re.Pattern[str]) -> str:
        """Return *text*, a file of settings (``NAME=value``), with only those values that may be seen.

        Those are the values of names that *shown* matches from their start, unless they look like secrets.
        """
        lines = []
        for line in text.splitlines():
            name, sign, value = line.partition("=")
            if (
                sign
                and value.strip()
                and not line.lstrip().startswith(("#", ";", "["))
                and not shown.match(name.strip())
            ):
                self.counts["setting"] += 1
                lines.append(f"{name}={MASK}")
            else:
                lines.append(self.mask(line))
        return "\n".join(lines) + "\n" if lines else ""

    def yaml(self, text: str) -> str:
        """Return *text*, YAML, without the values of names that sound like secrets, and without vaults' contents."""
        lines: list[str] = []
        hidden: int | None = None
        for line in text.splitlines():
            indentation = len(line) - len(line.lstrip())
            if hidden is not None and (not line.strip() or indentation > hidden):
                continue
            hidden = None
            found = re.match(r"""^(?P<head>\s*(?:- +)*["']?(?P<name>[\w.-]+)["']?\s*:)(?P<value>\s+\S.*|\s*)$""", line)
            if found and not found["value"].lstrip().startswith("#"):
                vault = found["value"].lstrip().startswith("!vault")
                if vault or SECRET_NAME.fullmatch(found["name"]):
                    self.counts["named"] += 1
                    # Whatever belongs to it stands farther right on the lines that follow.
                    hidden = len(found["head"]) - len(found["head"].lstrip(" -"))
                    lines.append(f"{found['head']} {MASK}")
                    continue
            lines.append(line)
        return self.mask("\n".join(lines) + "\n" if lines else "")

    def _entry(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and value and SECRET_NAME.fullmatch(name):
            self.counts["named"] += 1
            return MASK
        return self.document(value)

    def _replaced(self, name: str, match: re.Match[str]) -> str:
        group = "value" if "value" in match.re.groupindex else 0
        value = match[group]
        if value.strip("\"'\\") == MASK:
            return match[0]
        self.counts[name] += 1
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        quotation = value[0] if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1 else ""
        return f"{match[0][:start]}{quotation}{MASK}{quotation}{match[0][end:]}"


def _spellings(value: str) -> Iterator[str]:
    """Yield how *value* may be written in files, addresses, logs and headers."""
    yield value
    yield from (quote(value, safe=""), quote(value), quote_plus(value), quote(value, safe="").replace("%2F", "/"))
    yield shlex.quote(value)
    yield value.replace("'", "'\\''")
    yield value.replace("'", "''")
    # As in double quotes: systemd's files of settings, the shell.
    yield re.sub(r'(["\\`$])', r"\\\1", value)
    yield value.replace("\\", "\\\\")
    yield value.replace("%", "%%")
    yield value.replace("$", "$$")
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield from _base64(value.encode())


def _base64(data: bytes) -> Iterator[str]:
    """Yield what is there of *data* in the base64 of any text that contains it, at each of the three offsets."""
    for offset in range(3):
        # Characters that depend on the neighbours as well are left out.
        first = (offset * 8 + 5) // 6
        last = (offset + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + data).decode()[first:last]
            if len(encoded) >= 2 * _SHORTEST:
                yield encoded
    yield base64.b64encode(data).decode()
