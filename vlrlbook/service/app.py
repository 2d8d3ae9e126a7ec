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

_most_seconds_to_save = 6.0  # for jobs that are interrupted; the server itself must end within ten
_seconds_to_die = 1.0  # for a job that is killed after its grace, so that it is not told to be still at work
_tidy_seconds = 3600


def create_app(
    settings: ServiceSettings,  # checked
    jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
    token: str = None,  # None: no token is asked for
):  # FastAPI, with `Doors` as its middleware
    """Build the service as an application for any ASGI server.

    Each row of the table `endpoints` becomes a route; its `name` is that of the method of `Service` which
    answers it. `_life` starts and stops the background work, and `Doors` checks host name, origin and token
    before any route is looked up."""
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    service = Service(settings, jobs, token)
    # FastAPI's own pages (docs, redoc) are off, since they load scripts from another host; so is its OpenAPI
    # document, since we serve our own. An address with a slash too many is refused, not redirected.
    app = FastAPI(title="vlrlbook training service", docs_url=None, redoc_url=None, openapi_url=None,
                  redirect_slashes=False, lifespan=_life)
    app.state.service = service

    _add_routes(app, service)
    app.add_exception_handler(HTTPException, _refuse_address)  # no such address, or not with this method
    # `_host_names`: the names by which a client may call this server.
    app.add_middleware(Doors, token=token, hosts=_host_names(settings))
    return app


def _add_routes(
    app,  # the FastAPI application
    service,  # `Service`: has a method for each address, called as the address is in `endpoints`
):
    "Add a route for each row of the table `endpoints` (method, path, name and more), and one more"
    for endpoint in endpoints:
        # An endpoint without parameters refuses any query string. Only `front` has a parameter that is not in
        # the table: `?token=…`.
        takes_query = bool(endpoint.query) or endpoint.name == "front"
        # `_answering` wraps the method: exceptions become refusals.
        answer = _answering(getattr(service, endpoint.name), takes_query)
        app.add_route(endpoint.path, answer, [endpoint.method])
    # This address is not in the table, since its document is made from the table.
    app.add_route("/openapi.json", _answering(_show_document, takes_query=False), ["GET"])


def _host_names(
    settings,  # its `host` is where the server listens; `allowed_hosts` are further names, parted by commas
):
    """List the host names under which clients may call the server; requests to any other are refused.

    Host 0.0.0.0 and allowed hosts "lab, lab.local" → 127.0.0.1, localhost, [::1], 0.0.0.0, lab, lab.local"""
    # An IPv6 address stands in brackets wherever a port may follow.
    listens_on = f"[{settings.host}]" if ":" in settings.host else host_name(settings.host)
    allowed_names = [name.strip() for name in settings.allowed_hosts.split(",")]
    # `own_host_names` are those of this machine: 127.0.0.1, localhost and [::1].
    return [*own_host_names, listens_on, *filter(None, allowed_names)]


async def _show_document(request):
    "GET /openapi.json"
    return reply(openapi())


def _answering(
    method,  # takes a request and returns a response, or raises
    takes_query,  # False: a query string, such as ?limit=2, is refused
):
    "Make a route's function from a method; whatever it raises becomes a refusal in the service's one form"
    from starlette.requests import ClientDisconnect

    async def answer(request):
        "Answer a request by `method`; an exception becomes a refusal"
        try:
            if not takes_query:
                # Reads the parameters of which it is given the names. None is given, so any that the request has
                # is unknown, and a Problem is raised.
                query(request)
            return await method(request)
        except ClientDisconnect:
            return empty_reply(400)  # the client has closed the connection, so nobody reads this reply
        except Exception as error:
            return _answer_to_error(error, request)

    return answer


def _answer_to_error(error, request):
    "Make the reply to an exception; the traceback of an unforeseen one goes into the log, not to the client"
    problem = as_problem(error)
    if problem.status == 500:  # what `as_problem` makes of an exception that nobody foresaw
        place = dict(method=request.method, path=clean(request.url.path))
        logger.error("fault", exc_info=error, extra=place)
    return problem_response(problem)


async def _refuse_address(
    request,  # whose address or method the framework does not know
    error,  # the framework's exception: status_code and headers
):
    "Write the framework's refusals (404 no such address, 405 wrong method) in the service's own form"
    if error.status_code != 405:
        return problem_response(Problem("door.path", f"there is no {clean(request.url.path, 100)}"))
    detail = f"{clean(request.method, 20)} is not for this address"
    # The framework's own Allow names the methods of one route only, and an address has a route for each.
    headers = dict(error.headers or {}) | {"Allow": ", ".join(_methods_of_address(request))}
    return problem_response(Problem("door.method", detail, headers))


def _methods_of_address(request):
    "The methods that the address of a request takes, in the order of the alphabet"
    from starlette.routing import Match
    # An address has a route for each method, and in a 405's header Allow the framework names those of the
    # first route alone.
    methods = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)  # PARTIAL: the address is the route's, the method is not
        if match != Match.NONE:
            methods |= route.methods or set()
    return sorted(methods)


@contextlib.asynccontextmanager
async def _life(app):
    """Start the background work of the service, and end it when the server stops (ASGI's lifespan).

    The work: dispatching jobs, removing old uploads once an hour, loading the reward model of POST /rank."""
    service = app.state.service
    service.jobs.start()
    tidying = asyncio.create_task(_tidy_hourly(service))
    loading = asyncio.create_task(service.rank_side.load())
    try:
        yield
    finally:
        service.stopping.set()  # open streams of events end when they see it
        tidying.cancel()
        loading.cancel()
        await service.rank_side.stop()
        # Last, since the dispatcher thread, which this stops, writes down how jobs end. Jobs get their grace
        # to save a checkpoint, but not longer than a stopping server may take.
        seconds_to_save = min(_most_seconds_to_save, service.settings.grace + _seconds_to_die)
        service.stopped_jobs = await asyncio.to_thread(service.jobs.stop, seconds_to_save)


async def _tidy_hourly(service):
    "Remove, once an hour, uploads that are older than the settings keep them"
    while service.settings.keep_days:  # 0 keeps all
        await asyncio.sleep(_tidy_seconds)
        try:
            removed_ids = await asyncio.to_thread(service.tidy, service.settings.keep_days)
        except Exception as error:
            # Logged, and tried again in an hour: the ledger may be locked for a moment.
            logger.error("tidy", exc_info=error)
        else:
            logger.info("tidy", extra=dict(files=len(removed_ids)))
