"""The OpenAPI document, made from the table of addresses, the table of codes and one example of each reply.

FastAPI could make one, from models of bodies and replies. It would add a 422 of its own to whatever takes a
parameter and a title to every field, and what it takes as given (several codes under one status, each with
an example) are the dicts below. The document is part of what clients program against, so it is made here.
Written by hand, not exported from a notebook."""
import re
from itertools import chain

from .. import __version__
from ..settings import by_task
from .addresses import endpoints
from .refusals import Problem, problems
from .training_form import request_form

__all__ = ["examples", "schema_of", "train_schema", "openapi"]

_file_id, _job_id = "0b8c4c1e-5a0f-4d57-9f0e-3b1f6f0f6f3a", "7d6f2a54-9a3e-4c0b-8f64-0a5f4f1f2c11"


def _examples():
    "Make an example of each request's or reply's body, with all fields; `schema_of` derives its schema"
    pieces = dict(
        upload=_upload_example(),
        row=dict(row=2, question="How many apples are there?", answer="A photo of 3 apples",
                 image=f"/files/{_file_id}/rows/2/image"),
        job=_job_example()) | _small_examples()  # field: a setting; metric, group, move: parts of replies below
    # Replies that hold others are put together from the same pieces. An empty dict stands for any object.
    return pieces | dict(
        formats={},
        files=dict(files=[pieces["upload"]], next=None),
        rows=dict(rows=[pieces["row"]], next=2),
        jobs=dict(jobs=[pieces["job"]], next=None),
        started=pieces["job"] | dict(notes=["400 steps, as the tiny preset has it; num_epochs or max_steps "
                                            "change that"]),
        settings=dict(training_config=[pieces["field"]], lora_config=[pieces["field"]]),
        metrics=dict(rows=[pieces["metric"]], next_step=5),
        rollouts=dict(step=5, groups=[pieces["group"]]),
        moves=dict(moves=[pieces["move"]]),
        rank=dict(question="How many apples?", answers=["A photo of 3 apples", "A photo of 4 apples"],
                  image=None),
        ranked=dict(ranked=[dict(place=1, answer="A photo of 3 apples", score=1.2, chance=0.9)],
                    calibrated=True, temperature=1.6),
        cleaned=dict(files=[_file_id], jobs=[]))


def _upload_example():
    "An example of what is told of an upload"
    skipped = dict(row=17, image="images/16.jpg", code="image.decode", message="cannot be decoded (OSError)")
    # skipped: the first rows that could not be used; skipped_rows: the number of all of them
    return dict(
        file_id=_file_id, filename="apples.zip", kind="counting", upload_time="2026-01-31T12:00:00Z",
        csv_rows=500, valid_images=498, skipped=[skipped], skipped_rows=2,
        notes=["everything lay in the folder 'apples/' of the archive (500 rows)"],
        size_bytes=1234567, unpacked_bytes=2345678)


def _job_example():
    "An example of a job's state"
    return dict(
        job_id=_job_id, job_name="apples", status="training", progress=42.5, current_step=85, total_steps=200,
        loss=0.01, created_at="2026-01-31T12:00:00.000Z", updated_at="2026-01-31T12:02:00.000Z",
        started_at="2026-01-31T12:00:01.000Z", ended_at=None, error_code=None, error_message=None,
        output_dir=f"jobs/{_job_id}/run", attempt=1, resumed_from=None, parameters=dict(lr=5e-5), slot="0",
        data_file_id=_file_id, can_resume=False, stage=None)


def _small_examples():
    "Examples of bodies of a few fields: front, field, train, metric, group, move"
    front = dict(  # files: how many uploads there are
        name="vlrlbook training service", version="0.1.0", trains="tiny", api="/openapi.json",
        data_format="/data-format", settings="/settings", files=3)
    field = dict(
        name="learning_rate", label="Learning rate", type="float", default=5e-5, minimum=1e-8, maximum=1.0,
        choices=None, choice_labels=None, help="Learning rate of the policy (5e-5)")
    train = dict(
        job_name="apples", data_file_id=_file_id, training_config=dict(learning_rate=5e-5, num_generations=8),
        lora_config=dict(r=16))
    # silent: share of the groups whose answers all earned the same
    metric = dict(step=5, reward=0.85, loss=0.01, silent=0.25)
    group = dict(
        row=2, question="How many?", truth="A photo of 3 discs", image="data:image/png;base64,",
        answers=[dict(text="A photo of 3 discs", parts=dict(overall=1.0), advantage=1.2)])
    move = {  # no dict(…): `from` is a word of Python
        "time": "2026-01-31T12:00:00.000Z", "attempt": 1, "from": "queued", "to": "training", "why": "slot 0"}
    return dict(front=front, field=field, train=train, metric=metric, group=group, move=move)


def _examples_of_outcome():
    "Make examples of two replies about a completed job: its verdict, and its model's answers to a picture"
    question = dict(name="greedy_rose", question="Is the best guess right more often?", answer="yes",
                    detail="+0.270 (+0.180 to +0.350)")
    figure = dict(
        asked="best guess", measure="exact_accuracy", words="right", before=0.31, after=0.58, gain=0.27,
        ci95=[0.18, 0.35], interval="Tango")
    answers = dict(
        greedy="A photo of 3 apples", sampled=["A photo of 3 apples"], read="3",
        picture="data:image/png;base64,")
    return dict(
        verdict=dict(outcome="better", sentence="Better: right answers went from 31 % to 58 %.",
                     questions=[question], task="counting", figures=[figure]),
        asked=dict(question="How many apples?", task="counting", before=answers, after=answers))


examples = _examples() | _examples_of_outcome()  # name of a reply, as `Endpoint.reply` has it → the reply

# In some objects the keys are data: names of settings or of a reward's parts. These are the keys that such
# objects have in the examples. Every other object has fixed keys.
_keys_of_open_objects = {"lr", "overall"}
# Of a field of the form: their type depends on the field.
_any_value_keys = ("default", "choices", "choice_labels")
_json_types = {bool: "boolean", int: "integer", float: "number", str: "string"}
_schema_types = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}


# Schemas

def schema_of(
    example,  # a reply, or a part of one
) -> dict:  # JSON Schema; null is allowed wherever a number, a text or a list stands
    """Derive the JSON schema of a reply from an example of it, part by part.

    Every key of an example is a required property, and the first item of a list stands for all of them."""
    if isinstance(example, dict):
        return _schema_of_object(example)
    if isinstance(example, list):
        item_schema = schema_of(example[0]) if example else {}
        return dict(type=["array", "null"], items=item_schema)
    if type(example) not in _json_types:
        return {}  # the example is None, which shows no type
    return dict(type=[_json_types[type(example)], "null"])


def _schema_of_object(
    example,  # a dict, such as {"step": 5, "groups": []}
):
    "The schema of a JSON object, from an example of it: all keys of the example are required"
    # Keys that are names of settings or of a reward's parts differ from reply to reply: none can be required.
    # `_keys_of_open_objects`: those that stand in the examples, lr and overall.
    keys_are_data = set(example) <= _keys_of_open_objects  # also true for an empty example
    if keys_are_data:
        return dict(type="object")  # any object
    properties = {}
    for name, value in example.items():
        # An empty schema allows any value: a setting's default, for example, may be a number or a text.
        properties[name] = {} if name in _any_value_keys else schema_of(value)
    return dict(type="object", properties=properties, required=list(example))


def train_schema(
) -> dict:  # JSON Schema
    "Return the schema of the body of POST /train, with the range or the choices of every setting"
    # No further names are allowed, since the service refuses unknown ones.
    properties: dict = dict(
        job_name=dict(type="string", minLength=1, maxLength=200),
        data_file_id=dict(
            type=["string", "null"], minLength=1, maxLength=200,
            description="An upload. It may be left out where training_config names a task: then pictures are "
                        "drawn, by seed"))
    for group in request_form():  # training_config and lora_config
        settings = {}  # name of a setting → its schema
        for name, field_of_task in _fields_of_tasks(group).items():
            settings[name] = _field_schema(field_of_task)
        properties[group] = dict(type=["object", "null"], properties=settings, additionalProperties=False)
    return dict(type="object", required=["job_name"], properties=properties, additionalProperties=False)


def _fields_of_tasks(
    group,  # training_config or lora_config
):  # dict: name, such as learning_rate → {task: the field, a dict, in the form of that task}
    "Return the fields of a group of the form for training, each with the tasks that have it"
    fields: dict = {}
    for task in by_task:
        for field in request_form(task=task)[group]:
            fields.setdefault(field["name"], {})[task] = field
    return fields


def _field_schema(
    field_of_task,  # task → its field for this setting: dict of type, help, choices, minimum, maximum
):
    """Return the schema of one setting; null means that it is not set.

    The choices of all tasks are put together. If they differ, or if a task lacks the setting, the description
    says so."""
    # Of any task: type and limits are the same for all. The help differs only where the choices do, and then
    # `_schema_of_choices` replaces the description.
    field = next(iter(field_of_task.values()))
    schema = dict(type=[_schema_types[field["type"]], "null"], description=field["help"])
    if len(field_of_task) < len(by_task):
        schema["description"] += f" (task {', '.join(field_of_task)} alone)"
    if field["choices"]:
        schema |= _schema_of_choices(field_of_task)
    if field["minimum"] is not None:  # a field has both limits or neither
        schema["minimum"] = field["minimum"]
        schema["maximum"] = field["maximum"]
    return schema


def _schema_of_choices(
    field_of_task,  # task → its field for this setting: dict with label and choices, a list
):
    "The enum of a setting with choices, and a description of each task's choices if they differ"
    choice_lists = [field["choices"] for field in field_of_task.values()]
    choices = list(dict.fromkeys(chain(*choice_lists)))  # each once
    schema: dict = {}
    if any(own_choices != choices for own_choices in choice_lists):
        of_each = [f"{task}: {' | '.join(own['choices'])}" for task, own in field_of_task.items()]
        label = next(iter(field_of_task.values()))["label"]
        schema["description"] = f"{label}. Of each task: {'; '.join(of_each)}"
    schema["enum"] = [*choices, None]  # None: the setting is not set
    return schema


def _problem_schema():
    "Return the schema of a refusal; the document holds it once and refers to it from every status"
    text, number = dict(type="string"), dict(type="integer")
    error_names = ("field", "code", "message")
    error = dict(type="object", required=[*error_names], properties={name: text for name in error_names})
    properties = dict(
        type=text, status=number, code=dict(type="string", enum=list(problems)), title=text, detail=text,
        row=number, entry=text, errors=dict(type="array", items=error))
    return dict(type="object", required=["type", "status", "code", "title", "detail"], properties=properties)


# The body of POST /rank; limits of length are the server's own and stand in its refusals
_rank_schema = dict(
    type="object", required=["question", "answers"], additionalProperties=False,
    properties=dict(
        question=dict(type="string", minLength=1),
        answers=dict(type="array", minItems=1, maxItems=64, items=dict(type="string", minLength=1)),
        image=dict(type=["string", "null"],
                   description="A picture in base64, with or without a data URL's head")))


# The document

def openapi(
) -> dict:  # an OpenAPI 3.1 document
    "Make the OpenAPI document from the table of addresses: parameters, bodies, statuses and codes of each"
    about = ("GRPO for questions about pictures: upload, train, watch, download. The task is counting unless "
             "training_config names another. Errors are RFC 9457 with stable codes.")
    paths = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return dict(
        openapi="3.1.0",
        info=dict(title="vlrlbook training service", version=__version__, description=about),
        paths=paths,
        components=dict(
            schemas=dict(Problem=_problem_schema()),
            securitySchemes=dict(token=dict(type="http", scheme="bearer"))),
        security=[dict(token=[])])


def _operation(
    endpoint,  # `Endpoint`: an address with its method, and what it takes, gives and refuses with
):
    "Describe an address as an operation of OpenAPI: parameters, body, responses"
    operation = dict(operationId=endpoint.name, summary=endpoint.summary, responses=_responses(endpoint))
    # The keys are left out where there is no body, or where there are no parameters.
    body = _request_body(endpoint.name)
    if body:
        operation["requestBody"] = dict(required=True, content=body)
    parameters = _parameters(endpoint)
    if parameters:
        operation["parameters"] = parameters
    return operation


def _request_body(name):
    "The body that the endpoint called `name` takes: a dict of media type → its schema; None if it takes none"
    if name == "train":
        return {"application/json": dict(schema=train_schema(), example=examples["train"])}
    if name == "rank":
        return {"application/json": dict(schema=_rank_schema, example=examples["rank"])}
    if name in ("upload", "ask"):  # an archive; a picture
        file = dict(type="string", format="binary")
        form = dict(type="object", required=["file"], properties=dict(file=file))
        return {"multipart/form-data": dict(schema=form)}
    return None


def _parameters(
    endpoint,  # `Endpoint`: an address with its method, and what it takes, gives and refuses with
):
    "List the parameters of an address in OpenAPI's form: of its path, its query string and its headers"
    parameters = []
    # The path of an address holds names in braces, such as /jobs/{job_id}.
    for name in re.findall(r"{(\w+)}", endpoint.path):
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    for name, kind, help_text in endpoint.query:  # such as ("limit", "integer", "At most so many")
        parameters.append({"name": name, "in": "query", "schema": {"type": kind}, "description": help_text})
    if endpoint.name == "train":
        parameters.append({
            "name": "Idempotency-Key", "in": "header", "description": "The same key gives the same job",
            "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"}})
    return parameters


def _responses(
    endpoint,  # `Endpoint`: status of success, and `errors`, the codes that it may refuse with
):
    """Return the responses of an address as OpenAPI has them: status as a text → its description.

    First success, then every code that the address may refuse with, under the code's status."""
    responses = {str(endpoint.status): _success(endpoint)}
    access_codes = ["door.token", "door.host"]  # checked before a request to any address is handled
    if endpoint.method != "GET":
        access_codes.append("door.origin")  # not checked for a GET, which changes nothing
    for code in (*endpoint.errors, *access_codes, "server.error"):
        _add_code(responses, code)
    # Three addresses have a further status that is no error, such as 304 (not changed) for a download.
    return responses | _second_successes(endpoint, responses)


def _second_successes(
    endpoint,  # an `Endpoint` of the table `endpoints`, which holds only the first status of a success
    responses,  # of this address so far: status as a text → its description
):
    "Return further responses of an address that are no errors; only three addresses have some"
    if endpoint.name == "cancel":  # with ?purge=true it removes the job, and there is nothing to reply
        return {"204": dict(description="Removed")}
    if endpoint.name == "front":  # with ?token=… it redirects to itself
        return {"303": dict(description="The token is kept in a cookie")}
    if endpoint.name == "download":
        # 206: a part of the file, which a Range header asked for; otherwise like the whole file.
        part = responses[str(endpoint.status)] | dict(description="A part")
        return {"206": part, "304": dict(description="Not changed")}
    return {}


# A media type in the table of addresses → all media types of its replies, if there are several
_media_types = {
    "image/png": ["image/png", "image/jpeg"],
    "application/octet-stream": ["text/javascript", "text/css", "image/svg+xml", "text/html",
                                 "application/octet-stream"]}


def _success(
    endpoint,  # `Endpoint`: `reply` is a media type, such as text/html, or the name of an example of JSON
):
    "Describe the reply of an address when all is well; `reply` is None only where the status is 204"
    if endpoint.status == 204:
        return dict(description="Done")  # 204 means "no content"
    any_text = dict(schema=dict(type="string"))
    is_media_type = "/" in endpoint.reply
    if is_media_type:
        # `_media_types` knows those that stand for several, such as image/png for PNG and JPEG.
        media_types = _media_types.get(endpoint.reply, [endpoint.reply])
        content = {media_type: any_text for media_type in media_types}
        return dict(description=endpoint.summary, content=content)
    example = examples[endpoint.reply]
    content = {"application/json": dict(schema=schema_of(example), example=example)}
    if endpoint.name == "front":
        content["text/html"] = any_text  # the page for browsers has the same address
    return dict(description=endpoint.summary, content=content)


def _add_code(
    responses,  # of an address: status as a text → its description; changed here
    code,  # of a refusal, such as job.unknown
):
    "Describe a refusal among the responses of an address; codes that share a status get an example each"
    status, _ = problems[code]  # (HTTP status, title)
    # `setdefault`: made for the first code of a status, found for the next ones.
    response = responses.setdefault(str(status), dict(description="", content={}))
    new_media = dict(schema={"$ref": "#/components/schemas/Problem"}, examples={})
    media = response["content"].setdefault("application/problem+json", new_media)
    media["examples"][code] = dict(value=Problem(code).body())
    # The description lists the codes; `strip` removes the comma before the first one.
    response["description"] = (response["description"] + f", `{code}`").strip(", ")
