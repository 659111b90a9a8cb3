"""``bundle.toml``: what a bundle is to hold and where that comes from, in a file.

Every key is an option of the command line too, which goes before it. Both become the same document, which the schema
``bundle.schema.json`` checks; :func:`settings` returns it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from airgap.addresses import has_credentials, redact
from airgap.errors import UsageError
from airgap.toml import read_toml

CONFIG_NAME = "bundle.toml"
COMMAND_LINE = "the command line"
# Of the schema: a text that is not empty, and a list of those.
_TEXT, _TEXTS = "#/$defs/text", "#/$defs/texts"
_SCHEMA = Path(__file__).with_name("bundle.schema.json")

# Keys of the file, and the attributes that the command line's options have, where that is not the same name.
_ATTRIBUTES = {
    "targets": "target",
    "flows": "flow",
    "mirrors": "channel",
    "indexes": "index",
    "apt-mirrors": "apt_mirror",
    "apt-repositories": "apt_repository",
    "extra-debs": "extra_deb",
}
# Options that say how to run, not what to build.
RUN_OPTIONS = frozenset({"config", "dry_run", "quiet", "run", "help"})
_PATHS = ("output", "cache", "sign-key", "since", "have-signers", "ca-file")
_PATH_LISTS = ("flows", "extra-wheels")
_LISTS_IN_TABLES = ("components", "packages", "targets")
# Where pixi looks for its configuration; a later file goes before an earlier one.
_PIXI_PLACES = ("/etc/pixi/config.toml", "{config}/pixi/config.toml", "{pixi}/config.toml")


def attribute(key: str) -> str:
    """Return the attribute that holds, of the parsed command line, what *key* holds in the file."""
    return _ATTRIBUTES.get(key, key.replace("-", "_"))


def keys() -> tuple[str, ...]:
    """Return all keys of the file."""
    return tuple(_schema()["properties"])


def settings(options: argparse.Namespace, root: Path, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Return what the command line and the file say, by the file's keys; paths are absolute.

    The file is ``--config``, or ``bundle.toml`` in *root* where there is one. What the command line gives replaces what
    the file says, lists and tables too. Raises UsageError for what is not as the schema wants it, and for addresses
    that hold credentials. *wanted* are the keys that count; None for all.
    """
    named: Path | None = getattr(options, "config", None)
    path = named or root / CONFIG_NAME
    document = read_config(path.expanduser()) if named or path.is_file() else {}
    given = _given(options, wanted or keys())
    check(given, COMMAND_LINE)
    merged = document | _absolute(given, Path.cwd())
    return {key: value for key, value in merged.items() if wanted is None or key in wanted}


def read_config(path: Path) -> dict[str, Any]:
    """Return what the file at *path* says, checked; its paths, which start where the file is, become absolute."""
    try:
        document = read_toml(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name the file with --config.") from error
    except ValueError as error:  # of the text, or of its encoding
        raise UsageError(f"{path} is no TOML ({error}): correct it there.") from error
    check(document, str(path))
    return _absolute(document, path.resolve().parent)


def pixi_mirrors(checkout: Path, places: Iterable[str] = _PIXI_PLACES) -> dict[str, list[str]]:
    """Return the ``[mirrors]`` of pixi's own configuration files on this host, and of the project *checkout*.

    Addresses that no plain HTTP client can use (``oci://``) are left out. Raises UsageError for a file that is no TOML.
    """
    values = {
        "config": os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config"),
        "pixi": os.environ.get("PIXI_HOME") or str(Path.home() / ".pixi"),
    }
    mirrors: dict[str, list[str]] = {}
    for path in (*(Path(place.format(**values)) for place in places), checkout / ".pixi" / "config.toml"):
        try:
            found = read_toml(path).get("mirrors", {})
        except OSError:
            continue
        except ValueError as error:
            raise UsageError(f"pixi's configuration {path} is no TOML ({error}): correct it there.") from error
        for prefix, urls in found.items():
            if usable := [str(url) for url in urls if str(url).startswith(("https://", "http://", "file://"))]:
                mirrors[prefix] = usable
    return mirrors


def check(document: Mapping[str, Any], origin: str) -> None:
    """Raise UsageError with the first fault of *document*, which *origin* names: unknown keys, types, credentials."""
    schema = _schema()
    if not _is_right_at_a_glance(document, schema):
        from jsonschema import Draft202012Validator

        errors = sorted(
            Draft202012Validator(schema).iter_errors(document), key=lambda error: list(map(str, error.path))
        )
        if errors:
            raise UsageError(f"{origin}: {_sentence(errors[0])}")
    for path, text in _texts(document):
        if has_credentials(text):
            raise UsageError(
                f"{origin}: {path} holds credentials ({redact(text)}), which do not belong there: put them into "
                f"{_store(path)}."
            )


def _is_right_at_a_glance(document: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Return whether *document* has texts and lists of texts only, where *schema* wants just those.

    So it is with most command lines; loading a validator takes longer than many a build's other work.
    """
    for key, value in document.items():
        wanted = schema["properties"].get(key, {})
        texts = {_TEXT: [value], _TEXTS: value if isinstance(value, list) else []}.get(wanted.get("$ref"), [])
        is_right = bool(texts) and all(isinstance(text, str) and text for text in texts)
        if not is_right and value not in wanted.get("enum", ()):
            return False
    return True


def _sentence(error: Any) -> str:
    """Return what is wrong and what to do, for an error of the schema's validator."""
    place = _place(error.absolute_path)
    if error.validator == "additionalProperties" and error.schema.get("additionalProperties") is False:
        known = list(error.schema["properties"])
        name = next(key for key in error.instance if key not in known)
        import difflib

        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        within = f" in {place}" if place else ""
        advice = f"write {near[0]}." if near else f"the keys{within} are {', '.join(known)}."
        return f"there is no key {name}{within}: {advice}"
    wanted = error.schema.get("description", "")
    if error.validator == "required":
        missing = next(key for key in error.schema["required"] if key not in error.instance)
        return f"{place} has no {missing}: add it."
    if error.validator == "minItems":
        return f"{place} is empty: put something into it, or leave the key out."
    shown = json.dumps(error.instance, default=str)
    if has_credentials(shown):
        shown = "an address"
    return f"{place} is {shown}: it has to be {wanted or 'something else'}."


def _place(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _store(path: str) -> str:
    if path.startswith("mirrors") or path.startswith("extra-conda"):
        return "netrc, or pixi's own store (pixi auth login)"
    if path.startswith("apt"):
        return "netrc and apt's auth.conf"
    if path.startswith("proxy"):
        return "the environment's http_proxy and https_proxy, or pip's configuration, and leave this out"
    return "netrc or pip's configuration"


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts in *value* with where they are; keys of tables count too."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield path or redact_key(key), key
            yield from _texts(member, f"{path}.{redact_key(key)}" if path else redact_key(key))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _texts(member, f"{path}[{number}]")


def redact_key(key: str) -> str:
    """Return *key* as it may be shown: addresses are keys too."""
    return redact(key) if "://" in key else key


def _absolute(document: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return *document* with its paths starting at *directory*."""

    def place(text: str) -> str:
        return str(directory / Path(text).expanduser())

    result = dict(document)
    for key in _PATHS:
        if key in result:
            result[key] = place(result[key])
    for key in _PATH_LISTS:
        if key in result:
            result[key] = [place(text) for text in result[key]]
    for key, member in (("apt-repositories", "signed-by"), ("extra-conda", "lock")):
        if key in result:
            result[key] = [
                entry | {member: place(entry[member])} if member in entry else entry for entry in result[key]
            ]
    return result


def _given(options: argparse.Namespace, wanted: Iterable[str]) -> dict[str, Any]:
    """Return what the command line says of *wanted* as a document of the file's form."""
    document: dict[str, Any] = {}
    for key in wanted:
        value = getattr(options, attribute(key), None)
        # An option that was not given has None, False or an empty list.
        if value is None or value is False or value == []:
            continue
        if key in ("mirrors", "apt-mirrors"):
            document[key] = _table(value, key)
        elif key in ("apt-repositories", "extra-conda"):
            document[key] = [_fields(text, key) for text in value]
        elif isinstance(value, list):
            document[key] = [str(member) for member in value]
        else:
            document[key] = value if isinstance(value, bool) else str(value)
    return document


def _table(texts: Iterable[str], key: str) -> dict[str, list[str]]:
    """Return a table of addresses from options of the form NAME=URL; the same name may come several times."""
    table: dict[str, list[str]] = {}
    for text in texts:
        name, separator, url = text.partition("=")
        if key == "apt-mirrors" and (not separator or ":" in name):
            # An address may have = in it; a release has no colon.
            name, url = "*", text
        if not name or "://" not in url:
            form, example = ("NAME=URL", "channel") if key == "mirrors" else ("[RELEASE=]URL", "debian")
            raise UsageError(
                f"--{attribute(key).replace('_', '-')} wants {form}, with an address such as https://mirror/{example} "
                f"or file:///srv/{example}."
            )
        table.setdefault(name, []).append(url)
    return table


def _fields(text: str, key: str) -> dict[str, Any]:
    """Return a table from an option of the form "NAME=VALUE NAME=VALUE"; lists have commas."""
    fields: dict[str, Any] = {}
    for word in shlex.split(text):
        name, separator, value = word.partition("=")
        if not separator:
            raise UsageError(f"--{attribute(key).replace('_', '-')} wants NAME=VALUE words, and {word!r} is none.")
        fields[name] = value.split(",") if name in _LISTS_IN_TABLES else value
    return fields


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema
