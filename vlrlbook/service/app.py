"""The application: addresses with their answers, errors in the service's own form, and doors around it.

Of FastAPI only routes and life are used: `request_parts.py` and `openapi_document.py` say why not the rest.
Written by hand, not exported from a notebook."""
import asyncio
import contextlib

from .addresses import endpoints
from .doors import Doors, host_name, own_host_names
from .handlers import Service
from .log_lines import logger
from .openapi_document import openapi
from .options import ServiceSettings
from .refusals import Problem, as_problem, clean
from .replies import empty_reply, problem_response, reply
from .request_parts import query

__all__ = ["create_app"]

_longest_farewell = 6.0  # seconds for jobs that are interrupted; the server itself must end within ten
_tidy_seconds = 3600


def create_app(
    settings: ServiceSettings,  # checked
    jobs,  # chapter 07a's `Jobs`, started or not
    token: str = None,  # None: no token is asked for
):  # FastAPI, its doors on
    "The service as an application for any ASGI server"
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    service = Service(settings, jobs, token)
    # The pages of FastAPI load their scripts from a host elsewhere, and its document is not ours. A slash
    # too many is another address: a redirect would turn a POST into a GET.
    app = FastAPI(title="vlrlbook training service", docs_url=None, redoc_url=None, openapi_url=None,
                  redirect_slashes=False, lifespan=_life)
    app.state.service = service
    for endpoint in endpoints:
        # `front` takes a token in its query string, which stands in no documented parameter.
        takes_query = bool(endpoint.query) or endpoint.name == "front"
        answer = _answering(getattr(service, endpoint.name), takes_query)
        app.add_route(endpoint.path, answer, [endpoint.method])
    app.add_route("/openapi.json", _answering(_show_document, takes_query=False), ["GET"])
    app.add_exception_handler(HTTPException, _refuse_address)
    app.add_middleware(Doors, token=token, hosts=_host_names(settings))
    return app


def _host_names(settings):
    "Names by which the server may be called: this machine's, where it listens, and those in the settings"
    # An IPv6 address stands in brackets wherever a port may follow.
    listens_on = f"[{settings.host}]" if ":" in settings.host else host_name(settings.host)
    further = [name.strip() for name in settings.allowed_hosts.split(",")]
    return [*own_host_names, listens_on, *filter(None, further)]


async def _show_document(request):
    "GET /openapi.json"
    return reply(openapi())


def _answering(method, takes_query):
    "A route's function from a method that answers a request: what the method raises is told in our form"
    from starlette.requests import ClientDisconnect

    async def answer(request):
        try:
            if not takes_query:
                query(request)  # refuses whatever stands in the query string
            return await method(request)
        except ClientDisconnect:
            return empty_reply(400)  # nobody is there to read it
        except Exception as error:
            return _answer_to_error(error, request)

    return answer


def _answer_to_error(error, request):
    "The reply to an error; a fault of ours is in the log with all that is known, and told to nobody"
    problem = as_problem(error)
    if problem.status == 500:
        place = dict(method=request.method, path=clean(request.url.path))
        logger.error("fault", exc_info=error, extra=place)
    return problem_response(problem)


async def _refuse_address(request, error):
    "What the framework refuses by itself, in our form, so that a client needs one way to read errors"
    if error.status_code != 405:
        return problem_response(Problem("door.path", f"there is no {clean(request.url.path, 100)}"))
    detail = f"{clean(request.method, 20)} is not for this address"
    # The framework's header says which methods are.
    return problem_response(Problem("door.method", detail, dict(error.headers or {})))


@contextlib.asynccontextmanager
async def _life(app):
    "Jobs are dispatched and old uploads removed while the server runs"
    # Ended jobs are forgotten by age too; that is their ledger's own affair.
    service = app.state.service
    service.jobs.start()
    tidying = asyncio.create_task(_tidy_hourly(service))
    loading = asyncio.create_task(service.rank_side.load())
    try:
        yield
    finally:
        service.stopping.set()
        tidying.cancel()
        loading.cancel()
        await service.rank_side.stop()
        # Last, because until then a job may want to write its end down.
        await asyncio.to_thread(service.jobs.stop, min(_longest_farewell, service.settings.grace))


async def _tidy_hourly(service):
    "Remove, once an hour, uploads that are older than the settings keep them"
    while service.settings.keep_days:  # 0 keeps all
        await asyncio.sleep(_tidy_seconds)
        try:
            gone = await asyncio.to_thread(service.tidy, service.settings.keep_days)
        except Exception as error:
            # Told, and tried again in an hour: the ledger may be locked for a moment.
            logger.error("tidy", exc_info=error)
        else:
            logger.info("tidy", extra=dict(files=len(gone)))
