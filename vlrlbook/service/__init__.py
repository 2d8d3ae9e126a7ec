"""Upload, train, watch, download: what vlrlbook trains, for people with pictures and no wish to program.

A wing of plain modules, written by hand; the page of chapter 08 tells its story. From a request inwards:

    server            the command `vlrlbook serve`: socket, token, log, uvicorn
    app               the application: routes, errors in one form, its life
    doors             host name, origin and token, before anything is looked at
    addresses         the table of addresses, what each takes, gives and refuses with
    openapi_document  the document that is made from it
    handlers          which part answers which address: front_page, upload_handlers, job_handlers,
                      result_handlers, ask_handlers, rank_handlers (whose model lives in judge_process)
    request_parts     a request's query string and JSON body; strict_json reads the latter
    training_form     what a request for training may set; training_requests checks it, training_plan
                      completes it
    multipart_file    an upload on its way to the disk; archive_process reads it apart, uploads keeps it
    results           what a job leaves; notebook_page shows its notebook
    replies           what is answered with
    refusals          every code that there is, and the error that carries one
    options, log_lines

This file hands on the public names and does nothing else. Neither torch nor FastAPI is imported with it: the
process that reads an archive must start light."""
from .addresses import Endpoint, endpoints
from .app import create_app
from .archive_process import read_apart, read_upload
from .doors import Doors, Entry, host_name
from .front_page import Front, data_format, sample_zip, web_folder
from .handlers import Service
from .job_handlers import JobSide, StateSide, after_you, gentle
from .log_lines import JsonLines, logger, now
from .multipart_file import FilePart, receive_file
from .notebook_page import calm_html, notebook_html, write_html
from .openapi_document import examples, openapi, schema_of, train_schema
from .options import ServiceSettings
from .refusals import Problem, as_problem, clean, problems
from .replies import encoded, problem_response, reply
from .request_parts import json_body, query
from .result_handlers import EventSide, ResultSide
from .results import job_reply, log_tail, metric_rows, one_range, pack, rollouts_now, upload_of
from .server import listen, own_token, patient, serve
from .strict_json import read_json
from .training_form import (also_called, chapter_05, form_fields, hub_models, request_form, said_here,
                            tiny_models)
from .training_plan import plan
from .training_requests import read_request
from .upload_handlers import UploadSide
from .uploads import Intake, Uploads

# Names of lower rooms that could be imported from here while the service was one module, and still can be.
from ..archive import DataError, limits
from ..folders import commit_folder, finite, new_file, sha256_of, write_json, write_whole
from ..jobs import controls, ends, states, train_command
from ..settings import (GRPOSettings, SettingsError, answers_a_step, as_type, by_task, finite_number,
                        largest_batch, nearest, presets, settings_help, whole_groups_problem)

__all__ = ["logger", "problems", "tiny_models", "hub_models", "form_fields", "also_called", "said_here",
           "after_you", "examples", "endpoints", "ServiceSettings", "clean", "Problem", "as_problem",
           "read_json", "chapter_05", "request_form", "read_request", "plan", "FilePart", "receive_file",
           "read_upload", "read_apart", "now", "Intake", "Uploads", "host_name", "problem_response",
           "Entry", "Doors", "gentle", "encoded", "reply", "json_body", "query", "Front", "UploadSide",
           "JobSide", "StateSide", "upload_of", "job_reply", "log_tail", "metric_rows", "rollouts_now",
           "notebook_html", "calm_html", "write_html", "pack", "one_range", "ResultSide", "EventSide",
           "web_folder", "sample_zip", "data_format", "Service", "Endpoint", "schema_of", "train_schema",
           "openapi", "create_app", "JsonLines", "own_token", "listen", "patient", "serve"]
