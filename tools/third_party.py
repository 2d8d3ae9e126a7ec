"""Write THIRD_PARTY.md: every direct dependency of settings.ini and its licence, as its metadata states it.

    python tools/third_party.py [DIR ...]   write it
    python tools/third_party.py --check     say whether it is current

What the lock does not bring (GPU packages) is read from a folder: `uv pip install --no-deps --target DIR
vllm`, then `tools/third_party.py DIR`. Its line is kept until it is read again."""
import re
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

root = Path(__file__).resolve().parent.parent
longest_name = 40  # characters; some packages put the whole licence where its name belongs
head = """# Third parties

<!-- Made by tools/third_party.py from installed metadata: run `make readme`. -->

vlrlbook is under the Apache License 2.0 (LICENSE). It ships nobody else's code, weights, pictures \
or data: its wheel and its source archive hold only what was written or drawn for it. What it is \
built on is installed from a package registry under its own licence. These are the direct \
dependencies, by the extra that brings them ("core" comes with `pip install vlrlbook`); what they \
bring in turn is in requirements.lock.

| package | extra | licence | said by |
|---|---|---|---|
"""


def extras():
    "Read settings.ini, and return a dict: package -> names of the extras that bring it"
    ini = ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    extras_of_package = {}
    for key, value in ini["DEFAULT"].items():
        if key == "requirements":
            extra = "core"
        elif key.endswith("_requirements"):
            extra = key.removesuffix("_requirements")
        else:
            continue
        for requirement in value.split():
            name = re.match(r"[\w.-]+", requirement)[0]
            extras_of_package.setdefault(name, []).append(extra)
    return extras_of_package


def stated(
    package,  # an installed distribution
) -> tuple | None:  # (licence, "metadata" or "LICENSE file": where it was read); None if neither has one
    "Read the licence of a package from its metadata or, if that has none, from its LICENSE file"
    metadata = package.metadata
    # `License-Expression` is the newest of three fields, and the one that tools check.
    names = metadata.get_all("License-Expression", [])
    for line in metadata.get_all("License", []):
        if line and "\n" not in line and len(line) < longest_name:
            names.append(line)
    for classifier in metadata.get_all("Classifier", []):
        if classifier.startswith("License ::"):
            names.append(classifier.split(" :: ")[-1])
    if names:
        return names[0], "metadata"
    shipped = [file for file in package.files or [] if file.name == "LICENSE"]
    if not shipped:
        return None
    # The first words of a licence are its name.
    title = " ".join(shipped[0].read_text().split()[:4])
    return title.rstrip(","), "LICENSE file"


def licence(
    name: str,  # of a package
    folders: list,  # other places to look in, if the package is not installed in this environment
) -> tuple | None:  # (licence, where it was read, such as "its metadata"); None if it cannot be read
    "Read the licence of a package that is installed in the environment or in a folder"
    try:
        packages, where = [distribution(name)], "its {place}"
    except PackageNotFoundError:
        # With the version, since requirements.lock does not have these packages.
        packages, where = distributions(name=name, path=folders), "{place} of {version}"
    for package in packages:
        licence_and_place = stated(package)
        if licence_and_place is None:
            return None
        text, place = licence_and_place
        return text, where.format(place=place, version=package.version)
    return None


def rows(folders):
    "Return a dict: package -> its line of the table, or None if its licence cannot be read on this machine"
    lines = {}
    for name, brought_by in sorted(extras().items()):
        lines[name] = None
        licence_and_source = licence(name, folders)
        if licence_and_source:
            text, source = licence_and_source
            lines[name] = f"| {name} | {', '.join(brought_by)} | {text} | {source} |"
    return lines


def kept_rows(path):
    """Read THIRD_PARTY.md as it is, and return a dict: package -> its line of the table.

    These lines are kept for packages that are installed only on machines with a GPU."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}


def main(words):
    "Write THIRD_PARTY.md or, with --check, stop if it is not current"
    path = root / "THIRD_PARTY.md"
    found = rows([word for word in words if word != "--check"])
    kept = kept_rows(path)
    unknown = [name for name, line in found.items() if line is None and name not in kept]
    if unknown:
        # The file is not written then: a dependency whose licence nobody has read must not be left out.
        sys.exit(f"{', '.join(unknown)}: no licence to be read; `uv pip install --no-deps --target DIR` it, "
                 "then run tools/third_party.py DIR")
    text = head + "".join(f"{line or kept[name]}\n" for name, line in found.items())
    if "--check" not in words:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        sys.exit("THIRD_PARTY.md is not what settings.ini and the installed packages say; run `make readme`")


if __name__ == "__main__":
    main(sys.argv[1:])
