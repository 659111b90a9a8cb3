"""What is installed on a node, from what dpkg-query prints."""

from __future__ import annotations

import dpkg_status

PRINTED = """\
installed\tacl:amd64\t2.3.1-3
installed\tadduser:all\t3.134
config-files\tnano:amd64\t7.2-1
installed\tlibc6:amd64\t2.36-9+deb12u10
installed\tlibc6:i386\t2.36-9+deb12u10
half-configured\tbroken:amd64\t1
"""


def test_only_installed_packages_count() -> None:
    assert dpkg_status.parse_status(PRINTED) == {
        "acl:amd64": "2.3.1-3",
        "adduser:all": "3.134",
        "libc6:amd64": "2.36-9+deb12u10",
        "libc6:i386": "2.36-9+deb12u10",
    }


def test_the_targets_name_is_the_builders() -> None:
    debian = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
    assert dpkg_status.target(debian, "x86_64") == "debian-12-x86_64"
    assert dpkg_status.target("ID=ubuntu\nVERSION_ID='24.04'\n", "aarch64") == "ubuntu-24.04-aarch64"
