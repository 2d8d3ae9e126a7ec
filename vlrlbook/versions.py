"""Which releases of other libraries the book was tested with, and which are installed.

Written by hand, not exported from a notebook. Nothing heavy is imported: the doctor uses this where NumPy and
torch are broken or missing. The bounds stand in settings.ini, and in the metadata of the installed
package."""
import re
from functools import cache
from importlib import metadata

__all__ = ["bounded_extras", "installed_version", "requirements_of", "without_marker", "judge_version",
           "own_requirements", "untested_versions", "warn_of_untested", "extra_of"]

# extras whose libraries have an upper bound, because their insides are touched
bounded_extras = ("aloha", "gpu")


def installed_version(
    package: str, # as a requirement writes it
) -> str | None: # None if it is not installed
    "Version of a package, from its metadata: nothing is imported"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(
    lines: list, # as `importlib.metadata.requires` returns them
    extra: str = "", # name of an extra; empty: what every installation brings
) -> list: # of `packaging.requirements.Requirement`
    "The requirements of the package or of one extra that apply to this Python and this system"
    from packaging.requirements import Requirement
    applying = []
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        # A requirement without an extra in its marker applies whatever the extra is, so it is asked twice.
        always = marker is None or marker.evaluate({"extra": ""})
        if extra:
            wanted = marker is not None and not always and marker.evaluate({"extra": extra})
        else:
            wanted = always
        if wanted:
            applying.append(requirement)
    return applying


def without_marker(
    requirement, # a `packaging.requirements.Requirement`
) -> str: # such as "ray[default]>=2.45"
    "A requirement as one would hand it to pip"
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def judge_version(
    requirement, # a `packaging.requirements.Requirement`
    version: str, # what is installed
) -> tuple: # (verdict, advice)
    "good inside the bounds, note above the tested ones, bad below"
    from packaging.version import Version
    # Pre-releases count as what they are: a nightly build of torch is a torch.
    failing = [s for s in requirement.specifier if not s.contains(version, prereleases=True)]
    if not failing:
        return "good", ""
    for bound in failing:
        if bound.operator == "!=":
            asked = without_marker(requirement)
            return "bad", f"this release is known not to work: pip install '{asked}'"
        above = bound.operator in ("<", "<=")
        # == and ~= are bounds on both sides; the version itself says which one was crossed.
        if bound.operator not in ("<", "<=", ">", ">="):
            above = Version(version) > Version(bound.version.removesuffix(".*"))
        if not above:
            return "bad", f"older than is needed ({bound}): pip install -U '{without_marker(requirement)}'"
    return "note", f"newer than was tested ({failing[0]})"


def own_requirements() -> list: # of lines such as "torch>=2.10"
    "What the metadata of the installed package says it needs; empty where it is not installed"
    try:
        return metadata.requires("vlrlbook") or []
    except metadata.PackageNotFoundError:
        return []


def untested_versions(
    lines: list = None, # requirements as package metadata has them; None: this package's own
) -> list: # a sentence for each library outside the releases that were tested
    "Installed libraries that are newer or older than the ones this book was tested with"
    lines = own_requirements() if lines is None else lines
    wanted = requirements_of(lines)
    for extra in bounded_extras:
        wanted += requirements_of(lines, extra)
    sentences = []
    for requirement in wanted:
        version = installed_version(requirement.name)
        # absent: it belongs to an extra that nobody asked for, or the import that needs it says so better
        verdict, why = ("good", "") if version is None else judge_version(requirement, version)
        if verdict == "note": # too old says itself what to do
            why += f"; if something breaks: pip install '{without_marker(requirement)}'"
        if verdict != "good":
            sentences.append(f"{requirement.name} {version} is {why}")
    return sentences


@cache
def warn_of_untested():
    "Say, once a process, which libraries are newer or older than the tested ones"
    from vlrlbook.core import warn_loudly
    for sentence in untested_versions():
        warn_loudly(sentence)


def extra_of(
    module: str, # as it is imported, such as uvicorn
) -> str | None: # such as serve; None where no extra brings it
    "The extra that brings a module"
    for line in metadata.requires("vlrlbook") or []:
        # A line of the metadata: `uvicorn>=0.34; extra == "serve"`. The extra `all` brings everything.
        pattern = rf"""{re.escape(module)}\b[^;]*;.*extra == ["'](?!all\b)(\w+)"""
        found = re.match(pattern, line.replace("-", "_"))
        if found:
            return found[1]
    return None
