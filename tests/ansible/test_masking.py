"""Masking: known values in every spelling, what looks like a secret, and what must stay readable."""

from __future__ import annotations

import base64
import json
import re
import shlex
from urllib.parse import quote, quote_plus

import pytest

from ansible.module_utils.masking import MASK, Masker

SECRET = "Zx9$+/'\"\\ ü%end"  # with everything that any form quotes


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        shlex.quote(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        '"' + re.sub(r'(["\\`$])', r"\\\1", SECRET) + '"',
        "'" + SECRET.replace("'", "''") + "'",
        SECRET.replace("%", "%%"),
        *(
            base64.b64encode(f"{before}{SECRET}{after}".encode()).decode()
            for before in ("", "u:", "use:", "a")
            for after in ("", "x")
        ),
    ],
)  # fmt: skip
def test_a_known_value_is_found_in_every_spelling(text: str) -> None:
    masker = Masker([SECRET])
    masked = masker.mask(f"before {text} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    for piece in ("Zx9", "end", base64.b64encode(SECRET.encode()).decode()[4:16]):
        assert piece not in masked
    assert masker.counts["known value"] == 1


def test_of_a_login_the_password_is_a_secret_too() -> None:
    masker = Masker(["admin:correct-horse"])
    assert masker.mask("the word is correct-horse") == f"the word is {MASK}"
    header = base64.b64encode(b"admin:correct-horse").decode()
    assert header not in masker.mask(f"blob {header}")


@pytest.mark.parametrize("secrets", [[], [""], ["abc"], [":"]])
def test_values_that_are_too_short_do_no_harm(secrets: list[str]) -> None:
    assert Masker(secrets).mask("abc: nothing here") == "abc: nothing here"


@pytest.mark.parametrize(
    "text",
    [
        "password=S3cr3t",
        'password="S3cr3t with blanks"',
        "password='S3cr3t''s'",
        'password="S3cr3t-never-closed',
        "PGPASSWORD=S3cr3t psql",
        '{"api_token": "S3cr3t"}',
        '{"message": "{\\"password\\": \\"S3cr3t\\"}"}',
        "db_pass: S3cr3t",
        "GET /x?token=S3cr3t&y=1",
        "PREFECT_SERVER_API_AUTH_STRING=admin:S3cr3t",
        "PREFECT_API_DATABASE_CONNECTION_URL=S3cr3t",
        "Authorization: Basic S3cr3t",
        "authorization: S3cr3t",
        "-H 'Authorization: Bearer S3cr3t'",
        "Cookie: session=S3cr3t",
        "postgresql+asyncpg://prefect:S3cr3t@localhost/prefect",
        "http://:S3cr3t@host/",
        "run --password S3cr3t now",
        "run --api-key=S3cr3t now",
        "-----BEGIN RSA PRIVATE KEY-----\nS3cr3t\n-----END RSA PRIVATE KEY-----",
        "time -----BEGIN PRIVATE KEY-----\ntime S3cr3t and no end",
        "[SQL: SELECT 1]\n[parameters: ('S3cr3t', 1)]",
        "DETAIL:  parameters: $1 = 'S3cr3t'",
        "eyJhbGciOiJIUzI1NiJ9.S3cr3tS3cr3t.abc",
        "pnu_S3cr3tS3cr3tS3cr3t",
        "AKIAIOSFODNN7S3CR3TX".replace("S3CR3T", "S3CR3T"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    masker = Masker()
    masked = masker.mask(text)
    assert "s3cr3t" not in masked.lower()
    assert MASK in masked
    assert sum(masker.counts.values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "prefect-server.service: Main process exited, code=exited, status=1/FAILURE",
        "06:12:40.123 | INFO    | prefect.worker.process - Submitting flow run 'x'",
        "http://pag-server:4200/api",
        "passing through the gate: 7",
        "author: somebody",
        "DETAIL:  Key (id)=(3) already exists.",
        "bypass=1",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    masker = Masker()
    assert masker.mask(text) == text
    assert sum(masker.counts.values()) == 0


def test_masking_twice_is_masking_once() -> None:
    masker = Masker()
    once = masker.mask('password="a b c"\nhttp://u:p4ssw0rd@h/\ntoken: x9x9x9')
    assert Masker().mask(once) == once


def test_settings_show_only_what_may_be_seen() -> None:
    masker = Masker()
    text = '# comment=stays\nPREFECT_HOME="/x"\nMY_OWN="hidden"\nPREFECT_API_AUTH_STRING="u:hidden"\n\n[section]\nE=\n'
    shown = masker.settings(text, re.compile("PREFECT_"))
    assert shown.splitlines() == [
        "# comment=stays", 'PREFECT_HOME="/x"', f"MY_OWN={MASK}", f'PREFECT_API_AUTH_STRING="{MASK}"', "", "[section]",
        "E=",
    ]  # fmt: skip


def test_yaml_loses_secrets_and_vaults_with_all_their_lines() -> None:
    text = """all:
  vars:
    ansible_password: hidden
    "api_token": |
      hidden
      hidden too

      hidden still
    other: !vault |
          $ANSIBLE_VAULT;1.1;AES256
          3132hidden
    list:
      - my_secret: [hidden,
          hidden]
        name: seen
    settings: {password: hidden, port: 5432}
  hosts: {a: {}}
"""
    masked = Masker().yaml(text)
    assert "hidden" not in masked
    for seen in ("vars:", f"ansible_password: {MASK}", "name: seen", "port: 5432", "hosts: {a: {}}"):
        assert seen in masked


def test_a_file_that_is_a_vault_is_masked() -> None:
    assert Masker().yaml("$ANSIBLE_VAULT;1.1;AES256\n6162\n6364\n") == f"{MASK}\n"


def test_documents_keep_their_form() -> None:
    document = {"token": "x", "count": {"token": 3}, "text": 'password="a"', "list": ["ghp_" + "a" * 30, None, True]}
    assert Masker().document(document) == {
        "token": MASK,
        "count": {"token": 3},
        "text": f'password="{MASK}"',
        "list": [MASK, None, True],
    }


def test_long_texts_take_no_long_time() -> None:
    masker = Masker([SECRET])
    for text in ("a" * 200_000, "-" * 20_000, "=" * 200_000, "password" * 5_000, '"' * 50_000):
        assert masker.mask(text) is not None
