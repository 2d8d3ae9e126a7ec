"""Packaging: every fact is read from settings.ini."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib, nbs = cfg["lib_path"], cfg["nbs_path"]
status = {"3": "Alpha", "4": "Beta", "5": "Production/Stable"}
extras = {k.removesuffix("_requirements"): cfg[k].split() for k in cfg if k.endswith("_requirements")}
extras["all"] = sorted({r for k in ("lab", "aloha", "serve") for r in extras[k]})


def on_its_own(text):
    "README.md for a page without the repository beside it: relative links and pictures with their full address"
    address = lambda m: f"{m[1]}({cfg['git_url']}/{'raw' if m[1][0] == '!' else 'blob'}/{cfg['branch']}/{m[2]})"
    return re.sub(r"(!?\[[^\]]*\])\((?![a-z]+:|#)([^)]+)\)", address, text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=on_its_own((here / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    license={"apache2": "Apache-2.0"}[cfg["license"]],
    keywords=cfg["keywords"],
    classifiers=[
        f"Development Status :: {cfg['status']} - {status[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3",
    ],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[lib, lib + ".*"]) + [f"{lib}.nbs"],
    package_dir={f"{lib}.nbs": nbs},  # the notebooks travel in the wheel as vlrlbook/nbs/*.ipynb
    include_package_data=False,  # MANIFEST.in is for the source archive; the wheel holds what the next line names
    package_data={lib: ["web/*", "jupyter/kernels/python3/*"], f"{lib}.nbs": ["*.ipynb", "*.md", "logs/*", "films/**/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "papermill.io": [f"{lib}://={lib}.cli:handler"],
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
    zip_safe=False,
)
