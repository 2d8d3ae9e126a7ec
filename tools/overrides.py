"""Write tests/support/overrides.json: which methods of libraries we override, with a hash of their source.

    python tools/overrides.py

Run it after you have read what changed, when tests/test_overrides.py says "look again"."""
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root), str(root / "tests")]

from support.overrides import write  # noqa: E402

if __name__ == "__main__":
    write()
