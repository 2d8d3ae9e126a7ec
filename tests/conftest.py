"""Everything runs offline, with one cache for the warm starts that the tests share."""
import os
import subprocess
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["IN_TEST"] = "1"
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    "A fresh cache, so that no test passes thanks to an earlier run"
    os.environ["VLRLBOOK_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["VLRLBOOK_CACHE"])


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 8 MB"
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
