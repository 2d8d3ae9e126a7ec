"""Write THIRD_PARTY.md: every direct dependency of settings.ini and its licence, as its own metadata states it. `--check` says whether it is current.

What the lock does not bring (GPU packages) is read from a folder: `uv pip install --no-deps --target DIR vllm`, then `tools/third_party.py DIR`. Its line is kept until it is read again."""
import re
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

root = Path(__file__).resolve().parent.parent
head = """# Third parties

<!-- Made by tools/third_party.py from installed metadata: run `make readme`. -->

vlrlbook is under the Apache License 2.0 (LICENSE). It ships nobody else's code, weights, pictures or data: its wheel and its source archive hold only what was written or drawn for it. What it is built on is installed from a package registry under its own licence. These are the direct dependencies, by the extra that brings them ("core" comes with `pip install vlrlbook`); what they bring in turn is in requirements.lock.

| package | extra | licence | said by |
|---|---|---|---|
"""


def extras():
    "{package: names of the extras that bring it}"
    ini = ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    found = {}
    for key, value in ini["DEFAULT"].items():
        if key != "requirements" and not key.endswith("_requirements"): continue
        for requirement in value.split():
            found.setdefault(re.match(r"[\w.-]+", requirement)[0],
                             []).append("core" if key == "requirements" else key.removesuffix("_requirements"))
    return found


def stated(package):
    "(licence, where it stands) of an installed package"
    said = package.metadata
    short = [line for line in said.get_all("License", []) if line and "\n" not in line and len(line) < 40]
    classes = [c.split(" :: ")[-1] for c in said.get_all("Classifier", []) if c.startswith("License ::")]
    names = [*said.get_all("License-Expression", []), *short, *classes]
    if names: return names[0], "metadata"
    shipped = [f for f in package.files or [] if f.name == "LICENSE"]
    if shipped: return " ".join(shipped[0].read_text().split()[:4]).rstrip(","), "LICENSE file"


def licence(name, folders=()):
    "(licence, who says so) from the environment or from a folder that packages were installed into; None where neither has it"
    try: found = stated(distribution(name))
    except PackageNotFoundError:
        for package in distributions(name=name, path=list(folders)):
            licence, where = stated(package)
            return licence, f"{where} of {package.version}"
        return None
    return found and (found[0], f"its {found[1]}")


def rows(folders=()):
    "{package: its line}; packages whose licence cannot be read here have None"
    return {name: found
            and f"| {name} | {', '.join(brought)} | {found[0]} | {found[1]} |" for name, brought in sorted(extras().items()) for found in [
                licence(name, folders)]}


if __name__ == "__main__":
    found, path = rows([a for a in sys.argv[1:] if a != "--check"]), root / "THIRD_PARTY.md"
    kept = {line.split(" | ")[0].strip("| "): line for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("| ")} if path.exists() else {}
    unknown = [name for name, line in found.items() if line is None and name not in kept]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: no licence to be read; `uv pip install --no-deps --target DIR` it, then run tools/third_party.py "
                 "DIR")
    text = head + "".join(f"{line or kept[name]}\n" for name, line in found.items())
    if "--check" in sys.argv:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit("THIRD_PARTY.md is not what settings.ini and the installed packages say; run `make readme`")
    else: path.write_text(text, encoding="utf-8")
