"""A job's executed notebook as one HTML page without scripts, made in a process of its own.

The notebook's outputs hold what people uploaded, so only what is on a list may stay, and a browser is told
to treat the page as a stranger. Written by hand, not exported from a notebook."""
import asyncio
import subprocess
from pathlib import Path

from ..folders import write_whole
from ..jobs import own_python
from .refusals import Problem, clean

__all__ = ["notebook_html", "calm_html", "write_html", "sandbox_policy"]

# Takes the page out of our origin altogether: even a script that slipped through would not run there.
sandbox_policy = ("sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                  "frame-ancestors 'self'")

_longest_making = 60  # seconds

# HTML that shows something, beside what bleach allows by itself. A list of what may stay is shorter and
# safer than one of what must go: there are more ways to write a script than anybody has counted.
_shown_tags = ("p h1 h2 h3 h4 h5 h6 div pre code span table caption thead tbody tr th td img br hr dl dt dd "
               "details summary sub sup del").split()

# The page carries its own style and nothing else, so whoever saves it has all of it in one file.
_page_style = """
body{font:16px/1.5 system-ui,sans-serif;color-scheme:light dark}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
pre{overflow-x:auto;background:#8881;padding:.6rem} img{max-width:100%;background:white}
table{border-collapse:collapse} td,th{border:1px solid #8886;padding:.2rem .5rem} .prompt{display:none}"""


async def notebook_html(
    path: Path,  # out.ipynb
    turns: asyncio.Semaphore,  # limits how many pages are made at once
) -> bytes:  # a page without scripts
    """Return the executed notebook as an HTML page; a Problem where there is no notebook yet.

    The page is kept beside the notebook, and made again when the notebook has changed."""
    if not path.exists():
        raise Problem("job.no_notebook", "the job has not begun its notebook")
    # A job writes its notebook again after every cell; the time in the page's name tells whether it is new.
    page = path.with_name(f"out-{path.stat().st_mtime_ns}.html")
    async with turns:
        if not page.exists():  # another request may have made it during the wait
            await _make_page(path, page)
    return await asyncio.to_thread(page.read_bytes)


async def _make_page(
    path,  # of the notebook
    page,  # path of the HTML file to be made
):
    """Make a notebook into an HTML file, and remove the pages of its earlier states; a Problem if it fails

    It runs in a process of its own: it takes a second of processor time, and strangers' text might make it
    hang."""
    code = "import sys; from vlrlbook.service import write_html; write_html(*sys.argv[1:])"
    child = await asyncio.create_subprocess_exec(
        *own_python(), "-c", code, str(path), str(page),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, stderr = await asyncio.wait_for(child.communicate(), _longest_making)
    except TimeoutError as error:
        message = f"making the page took more than {_longest_making} seconds"
        raise Problem("job.no_notebook", message) from error
    finally:
        # A client that hangs up cancels this function; the process must not go on without it.
        if child.returncode is None:  # it still runs
            child.kill()
            await child.wait()
    if child.returncode:
        raise _failure(stderr)
    _remove_other_pages(page)


def _failure(
    stderr,  # bytes that the process which should make a page wrote there: a traceback, usually
):
    "The Problem of a notebook's page that could not be made"
    # The last line of a traceback is the exception; 2000 bytes hold all but the longest.
    lines = stderr[-2000:].decode("utf-8", "replace").splitlines()
    last_line = lines[-1] if lines else ""
    return Problem("job.no_notebook", f"it cannot be shown now ({clean(last_line)})")


def _remove_other_pages(page):
    "Remove the pages that were made of earlier states of a notebook; they lie beside `page`"
    for old in page.parent.glob("out-*.html"):
        if old != page:
            old.unlink(missing_ok=True)  # another request may have been quicker


def calm_html(
    element,  # of a notebook, made from Markdown or given as an output
) -> str:  # HTML
    """Sanitize HTML: keep only the tags and attributes of an allowlist.

    It has headings, text, tables, links, and pictures as data: URLs. Any other tag, such as a script or a
    form, is shown as text, and any other attribute is removed."""
    import bleach
    text = element.decode() if isinstance(element, bytes) else str(element)
    return bleach.clean(  # without strip=True it escapes other tags
        text,
        tags={*bleach.ALLOWED_TAGS, *_shown_tags},
        protocols={"http", "https", "data"},  # `_may_be_in_link` and `_may_be_in_picture` allow fewer
        attributes={"*": ["class", "id"], "a": _may_be_in_link, "img": _may_be_in_picture})


def _may_be_in_link(tag, name, value):
    "Whether a link may keep an attribute: addresses of the web and of the page itself, no javascript:"
    # bleach asks this for each attribute, such as ("a", "href", "https://…").
    return name == "href" and value.startswith(("https://", "http://", "#"))


def _may_be_in_picture(tag, name, value):
    "Whether a picture may keep an attribute: one from elsewhere would tell its host who looks at the page"
    # bleach asks this for each attribute, such as ("img", "src", "data:image/png;base64,…").
    return name == "alt" or (name == "src" and value.startswith("data:image/"))


def write_html(
    notebook: str,  # .ipynb
    page: str,  # .html to write
):
    "Write a notebook as one HTML file that holds its pictures and no scripts"
    from nbconvert import HTMLExporter
    # With sanitize_html=True, nbconvert 7.17 cleans outputs with its filter `clean_html`. Ours replaces it,
    # since that one would remove pictures and headings.
    exporter = HTMLExporter(template_name="basic", sanitize_html=True, filters={"clean_html": calm_html})
    body, _resources = exporter.from_filename(notebook)
    head = f'<meta charset="utf-8"><title>The executed notebook</title><style>{_page_style}</style>'
    write_whole(page, f'<!doctype html><html lang="en">{head}<body>{body}</body></html>')
