"""A picture of the service's page, as a browser without a window draws it."""
import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def browser():
    "The system's Chromium, started and ended"
    from playwright.sync_api import sync_playwright
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found: raise FileNotFoundError(f"no browser: one of {', '.join(BROWSERS)} is needed")
    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try: yield started
        finally: started.close()


def page_picture(url, wait="main h1", width=1280, dark=False, path=None, token=None, timeout=60):
    """PNG of the whole page at `url` (such as http://127.0.0.1:8000/#/jobs/ID) once the selector `wait` is there; a job's answers are
    `.rollout`. In a thread, because a notebook has an event loop already"""
    with ThreadPoolExecutor(1) as thread: return thread.submit(_picture, url, wait, width, dark, path, token, timeout).result()


def _picture(url, wait, width, dark, path, token, timeout):
    with browser() as started:
        page = started.new_page(viewport=dict(width=width, height=900), color_scheme="dark" if dark else "light")
        if token: page.goto(url.partition("#")[0] + f"?token={token}") # for a session, as a person gets one
        page.goto(url)
        page.wait_for_selector(wait, timeout=1000 * timeout)
        page.evaluate("Promise.all([...document.images].map(i => i.decode()))")
        return page.screenshot(path=path, full_page=True)
