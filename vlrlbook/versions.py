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
    "Return the version of a package from its metadata; the package is not imported"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(
    lines: list, # as `importlib.metadata.requires` returns them
    extra: str = "", # name of an extra; empty: what every installation brings
) -> list: # of `packaging.requirements.Requirement`
    "Return the requirements of the package, or of one extra, that apply to this Python and system"
    from packaging.requirements import Requirement
    return [requirement for requirement in map(Requirement, lines) if _applies(requirement.marker, extra)]


def _applies(
    marker, # of a requirement: `packaging`'s Marker, the condition behind its `;`; None if it has none
    extra, # name of an extra, such as "gpu"; "" for what every installation brings
):
    """Whether a requirement belongs to an extra, on this Python and system

    One with the marker `extra == "gpu"` belongs to gpu alone; one without a marker to "" alone."""
    # One that holds without an extra belongs to every installation, and so to none of the extras.
    for_everyone = marker is None or marker.evaluate({"extra": ""})
    if not extra:
        return for_everyone
    return not for_everyone and marker.evaluate({"extra": extra})


def without_marker(
    requirement, # a `packaging.requirements.Requirement`
) -> str: # such as "ray[default]>=2.45"
    "Return a requirement as one would hand it to pip, without the condition behind its `;`"
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def judge_version(
    requirement, # a `packaging.requirements.Requirement`
    version: str, # what is installed
) -> tuple: # (verdict, advice); the advice on a good version is empty
    """Compare an installed version with the bounds of a requirement

    The verdict is good inside the bounds, note above them, and bad below them or where excluded (!=)."""
    # By default `contains` refuses pre-releases; a nightly build of torch shall count by its number.
    failed_bounds = [ # such as <2.12
        bound for bound in requirement.specifier if not bound.contains(version, prereleases=True)]
    for bound in failed_bounds:
        if bound.operator == "!=":
            wanted = without_marker(requirement)
            return "bad", f"this release is known not to work: pip install '{wanted}'"
        if not _is_too_new(version, bound):
            return "bad", f"older than is needed ({bound}): pip install -U '{without_marker(requirement)}'"
    return ("note", f"newer than was tested ({failed_bounds[0]})") if failed_bounds else ("good", "")


def _is_too_new(
    version, # of an installed package, such as "2.13.0"
    bound, # one bound of a requirement, which that version fails: operator and version, such as < and 2.12
):
    "Whether a version that fails a bound is too new for it; else it is too old"
    from packaging.version import Version
    if bound.operator in ("<", "<=", ">", ">="):
        return bound.operator in ("<", "<=")
    # == and ~= can be failed on both sides, so the version is compared with the number in them: 2 of ==2.*
    return Version(version) > Version(bound.version.removesuffix(".*"))


def own_requirements() -> list: # of lines such as "torch>=2.10"
    "Return the requirements in the metadata of vlrlbook; an empty list where it is not installed"
    try:
        return metadata.requires("vlrlbook") or []
    except metadata.PackageNotFoundError:
        return []


def untested_versions(
    lines: list = None, # requirements as package metadata has them; None: this package's own
) -> list: # a sentence for each library outside the releases that were tested
    "Name the installed libraries that are newer or older than those vlrlbook was tested with"
    lines = own_requirements() if lines is None else lines
    # What every installation needs, and the extras whose libraries have an upper bound (`bounded_extras`).
    requirements = requirements_of(lines)
    for extra in bounded_extras:
        requirements += requirements_of(lines, extra)
    sentences = map(_if_untested, requirements)
    return [sentence for sentence in sentences if sentence]


def _if_untested(
    requirement, # a `packaging.requirements.Requirement`, such as trl>=1.16,<1.17
):
    "A sentence such as `trl 2.0 is newer than was tested (<1.17); …`; None for a tested or absent library"
    version = installed_version(requirement.name)
    if version is None: # not installed, as with an extra that the user did not ask for
        return None
    verdict, advice = judge_version(requirement, version)  # verdict: good, note (too new) or bad
    if verdict == "good":
        return None
    if verdict == "note": # newer than was tested; the advice has no command yet
        advice += f"; if something breaks: pip install '{without_marker(requirement)}'"
    return f"{requirement.name} {version} is {advice}"


@cache
def warn_of_untested():
    "Print, once a process, which libraries are newer or older than the tested ones"
    from vlrlbook.core import warn_loudly
    for sentence in untested_versions():
        warn_loudly(sentence)


def extra_of(
    module: str, # as it is imported, such as uvicorn
) -> str | None: # such as serve; None where no extra brings it
    """Return the extra of vlrlbook that installs a module; for a message such as: install vlrlbook[serve]

    It looks for a package with the module's name. So None is also returned for one with another name, such as
    PIL of the package pillow."""
    # Matches a line such as `uvicorn>=0.34; extra == "serve"`; not the extra `all`, which brings everything.
    pattern = rf"""{re.escape(module)}\b[^;]*;.*extra == ["'](?!all\b)(\w+)"""
    for line in metadata.requires("vlrlbook") or []:
        # A hyphen in a package's name is an underscore in its module's: gym-aloha, gym_aloha. (No extra has a
        # hyphen.)
        match = re.match(pattern, line.replace("-", "_"))
        if match:
            return match[1] # the extra's name
    return None
