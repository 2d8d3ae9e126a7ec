"The wing of chapter 09: the names that it hands on, and rooms that do not hide them"
import json
import re
import types

from conftest import NOTEBOOKS, ROOT
from vlrlbook import easyr1

WING = ROOT / "vlrlbook" / "easyr1"
# in the order of their pages
ROOMS = ["quick_start_settings", "config", "export", "inspection", "shards", "merge", "pipeline"]


def test_the_names_of_before_and_no_others():
    wanted = set(json.loads((ROOT / "tests" / "public_names.json").read_text())["easyr1"])
    public = {name: value for name, value in vars(easyr1).items() if not name.startswith("_")}
    rooms = {name for name, value in public.items() if isinstance(value, types.ModuleType)}
    own = {name for name, value in public.items() if getattr(value, "__module__", "").startswith("vlrlbook.easyr1")}
    assert wanted <= set(public) - rooms and own <= wanted # what lower rooms made may be handed on besides
    assert rooms == set(ROOMS) and not rooms & wanted # a room would hide the name, or the name the room


def test_each_page_has_its_room_and_imports_only_rooms_before_it():
    pages = [path for path in NOTEBOOKS if path.name.startswith("09")]
    modules = [re.search(r"#\| default_exp easyr1\.(\w+)", path.read_text())[1] for path in pages]
    assert modules == ROOMS and {path.stem for path in WING.glob("[a-z]*.py")} == set(ROOMS)
    for number, room in enumerate(ROOMS):
        imported = re.findall(r"^from \.(\w+) import", (WING / f"{room}.py").read_text(), re.M)
        assert set(imported) <= set(ROOMS[:number]), room


def test_no_private_name_leaves_its_room():
    for room in ROOMS:
        source = (WING / f"{room}.py").read_text()
        for module, names in re.findall(r"^from (\.\w+) import (.+)$", source, re.M):
            assert not [name for name in names.split(", ") if name.startswith("_")], (room, module)


def test_no_page_is_too_long():
    for path in NOTEBOOKS:
        if path.name.startswith("09"):
            assert len(json.loads(path.read_text())["cells"]) <= 160, path.name
