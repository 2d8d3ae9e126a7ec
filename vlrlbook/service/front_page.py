"""The front: the page for people, and what programs should know before they begin.

Written by hand, not exported from a notebook."""
import asyncio
import hmac
from pathlib import Path

from .. import __version__
from ..archive import limits, zip_kinds
from ..settings import nearest
from .doors import Doors, names_token, wants_page
from .options import ServiceSettings
from .refusals import Problem, clean, problems
from .replies import bytes_reply, file_reply, reply
from .request_parts import query
from .sessions import Sessions, session_cookie, session_seconds
from .strict_json import most_json_bytes
from .training_form import kind_of_task
from .upload_handlers import zip_kind
from .uploads import Uploads

__all__ = ["Front", "web_folder", "sample_zip", "data_format"]

_old_cookie = "vlrlbook_token"  # of older versions: it held the token itself
_media_types = {  # by a file's ending; Python's own table depends on the system
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".ico": "image/x-icon"}


def web_folder(
) -> Path:  # inside the package
    "Where the files of the page for people are"
    return Path(__file__).resolve().parents[1] / "web"


def sample_zip(
    kind: str = "counting",  # what the answers are, a key of `archive.zip_kinds`
) -> bytes:  # 60 drawn pictures
    "Draw a data set of 60 pictures to count or to point in, as a ZIP that POST /upload-data takes"
    # Imported here, since `..data` loads pandas and `datasets`, without which the server starts sooner.
    import tempfile
    from ..data import synthetic_counting, write_counting_zip
    from ..pointing import synthetic_pointing
    with tempfile.TemporaryDirectory() as folder:
        # Any fixed seed: everybody gets the same pictures.
        samples = synthetic_pointing(60, seed=7) if kind == "pointing" else synthetic_counting(60, seed=7)
        # A ZIP for pointing has the same files and columns; only its answers are boxes.
        zip_path = write_counting_zip(samples, Path(folder) / "sample.zip")
        return zip_path.read_bytes()


def data_format(
    settings: ServiceSettings,  # whose limits are told
) -> dict:  # columns, limits, error codes
    "What an upload must look like, and every code that a refusal may carry"
    columns = {"images_path": "a picture's name in the archive, such as images/1.jpg",
               "question": "any text",
               "answer": zip_kinds["counting"]}
    return dict(
        format="a ZIP with main.csv and the pictures it names",
        columns=columns,
        kinds=zip_kinds,  # value of the parameter `kind` of an upload → what its answers are
        tasks=kind_of_task,  # task → the kind that it trains on; null: on drawn pictures alone
        example=["images_path,question,answer",
                 "images/1.jpg,How many apples are there?,A photo of 3 apples"],
        pictures=["PNG", "JPEG", "WEBP", "BMP", "GIF (one frame)"],
        encoding="UTF-8, with or without a mark, or UTF-16 with its mark",
        limits=_shown_limits(settings),
        errors=[dict(code=code, status=status, title=title) for code, (status, title) in problems.items()])


def _shown_limits(settings):
    "What an upload and the server may hold at most: name of a limit → number"
    # Taken from where they are enforced: the settings, and `limits` of `vlrlbook.archive`.
    return dict(
        upload_bytes=settings.upload_mb << 20,
        json_bytes=most_json_bytes,
        entries=limits["entries"],
        rows=limits["rows"],
        picture_bytes=limits["picture_bytes"],
        picture_pixels=limits["picture_pixels"],
        unpacked_bytes=limits["unpacked"],
        queued_jobs=settings.max_queued,
        uploads_gib=settings.quota_gb,  # enforced in GiB, whatever its name
        keep_days=settings.keep_days)


class Front:
    "Answers the addresses that need no upload and no job; each method takes a request"
    def __init__(self,
        settings: ServiceSettings,  # whose limits are told
        size: str,  # tiny or gpu: the models that the server trains
        forms: dict,  # task → its form, from `request_form`
        uploads: Uploads,  # their number is shown
        token: str | None,  # that clients must show; None: none is needed
    ):
        "Answer the addresses that need neither an upload nor a job, such as the page for browsers"
        self.settings = settings
        self.size = size
        self.forms = forms
        self.uploads = uploads
        self.token = token
        self.samples = {}  # kind → a ZIP of drawn pictures, made when it is first asked for

    async def front(self, request):
        """GET /: the page for a browser, a few facts as JSON for a program.

        With `?token=…` in the address it begins a session instead and leads back to the page."""
        # `Entry` lets a request to `/` in without a token if `names_token` or `wants_page` is true. The facts
        # at the end need a token, so these two come first here.
        if names_token(request.scope["query_string"]):
            return self._with_session(request)  # a redirect to the page, with a cookie if the token is right
        vary = {"vary": "accept"}  # a cache must not give a browser the reply that a program was sent
        if wants_page(request.scope["headers"]):
            page = web_folder() / "index.html"
            if not page.exists():
                raise Problem("door.path", "this installation has no page: index.html is missing", vary)
            headers = {"content-security-policy": Doors.page_policy, "cache-control": "no-cache"} | vary
            return file_reply(page, "text/html; charset=utf-8", headers)
        return reply(self._facts(), headers=vary)

    def _facts(self):
        "What a program should know of this server, as a dict"
        return dict(
            name="vlrlbook training service",
            version=__version__,
            trains=self.size,  # tiny or gpu: the preset of its jobs
            api="/openapi.json",
            data_format="/data-format",
            settings="/settings",
            files=len(self.uploads.known))  # how many uploads there are

    def _with_session(self, request):
        """Redirect to the page, with a session cookie if the token in the address is right.

        The redirect takes the token out of the address, since browsers keep addresses in their history."""
        from starlette.responses import RedirectResponse
        redirect = RedirectResponse("./", 303)  # "see other": the browser asks for the page by GET
        shown_token = request.query_params["token"]
        if self.token and hmac.compare_digest(shown_token.encode(), self.token.encode()):
            self._set_session_cookie(request, redirect, self.token)
        return redirect

    def _set_session_cookie(self,
        request,  # of a browser that has shown the token
        response,  # which gets the cookie as a header
        token,  # the server's: sessions are signed with it
    ):
        "Begin a session with the browser that sent a request: from now on its cookie stands for the token"
        # The cookie holds a session and not the token, since browsers send it to all ports of this host.
        # No script can read it, and no page of another site can make the browser send it.
        name = session_cookie(request.headers.get("host", ""))
        session = Sessions(token).begin(name)  # the cookie's value: its end, signed with the token
        response.set_cookie(name, session, httponly=True, samesite="strict", max_age=session_seconds)
        # Older versions kept the token itself in a cookie: that one is removed.
        if _old_cookie in request.cookies:
            response.delete_cookie(_old_cookie)

    async def static(self, request):
        "GET /static/{name}: a file of the page"
        name = request.path_params["name"]
        # Compared with the files that there are, so that no name can lead out of the folder.
        file_names = {path.name for path in web_folder().glob("*") if path.is_file()}
        if name not in file_names:
            raise Problem("door.path", "no such file")
        media_type = _media_types.get(Path(name).suffix, "application/octet-stream")
        headers = {"cache-control": "no-cache", "content-security-policy": Doors.page_policy}
        return file_reply(web_folder() / name, media_type, headers)

    async def data_format(self, request):
        "GET /data-format: columns, limits, codes; a refusal's `type` points here"
        return reply(data_format(self.settings))

    async def settings_form(self, request):
        "GET /settings: what a request for training may set, with the defaults of a task"
        task = query(request, task=(str, "counting"))["task"]  # (type, default)
        if task not in self.forms:  # task, such as vqa → its form
            shown_task = clean(task, 40)
            hint = nearest(shown_task, list(self.forms))  # such as ": did you mean 'vqa'?"
            raise Problem("query.value", f"task = {shown_task!r}{hint}")
        return reply(self.forms[task])

    async def sample_data(self, request):
        "GET /sample-data: a ZIP of 60 drawn pictures for people who have no data yet"
        kind = zip_kind(query(request, kind=(str, "counting"))["kind"])  # (type, default)
        if kind not in self.samples:  # drawn once, in a thread, since it takes a while
            self.samples[kind] = await asyncio.to_thread(sample_zip, kind)
        headers = {"content-disposition": 'attachment; filename="sample-data.zip"'}
        return bytes_reply(self.samples[kind], "application/zip", headers)
