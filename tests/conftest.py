"""Everything runs offline, with one cache for the warm starts that the tests share."""
import os
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
