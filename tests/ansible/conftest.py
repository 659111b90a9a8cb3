"""Makes the modules of ansible/library and ansible/module_utils importable, as Ansible does on a node."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"

sys.path.insert(0, str(ANSIBLE / "library"))
module_utils = pytest.importorskip("ansible.module_utils")
module_utils.__path__.append(str(ANSIBLE / "module_utils"))
