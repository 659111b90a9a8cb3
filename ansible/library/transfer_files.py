#!/usr/bin/python
"""Ansible module: documentation of transfer_files, which is an action plugin and runs where Ansible does."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: transfer_files
short_description: Transfer files of a directory on the controller, those of them that the node lacks
description:
  - rsync over Ansible's own SSH connection, by contents, in one task. C(ansible.posix.synchronize) does it; this adds
    the list of files, which rsync wants in a file on the controller.
  - Directories below the destination get the mode 0755 and files 0644. The destination itself is created where it is
    lacking, as the umask says. The node needs rsync 3.2.3 or newer.
options:
  source:
    description: Directory on the controller.
    type: path
    required: true
  destination:
    description: Directory on the node.
    type: path
    required: true
  files:
    description: Paths below the source. Nothing is done when there are none.
    type: list
    elements: str
    required: true
  older:
    description: Directories on the node with older versions. A file that is the same there is linked instead.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Tells what would travel.
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Transfer two files of the mirror
  transfer_files:
    source: /opt/pag/mirror
    destination: /opt/pag/mirror
    files: [conda/noarch/a.conda, pypi/b.whl]
"""

RETURN = r"""
# What ansible.posix.synchronize returns.
"""
