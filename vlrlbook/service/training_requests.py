"""Checks a request for training: every name, type, range and rule; all that is wrong is said at once.

Written by hand, not exported from a notebook."""
import json

from ..settings import GRPOSettings, SettingsError, answers_a_step, by_task, nearest, read_settings
from ..settings import whole_groups_problem
from .refusals import Problem, clean
from .training_form import also_called, choices_of, form_fields, tasks_of

__all__ = ["requested_task", "read_request", "value_problem", "batch_problems", "form_defaults",
           "refuse_clashes"]

_most_letters = 200  # of a job's name and of an upload's identifier
_most_listed = 50  # errors listed in a refusal: a page shows no more, and a stranger's mistakes have no end
_most_in_detail = 3  # errors repeated in the sentence for people

_python_types: dict = {"int": int, "float": (int, float), "bool": bool, "str": str}  # by a field's `type`


def requested_task(
    body: dict,  # of POST /train, as `read_json` gives it
) -> str:  # counting, vqa, pointing or zoom
    """Return the task that a request names, which decides what else it may say; counting if it names none.

    Also counting if what it names is no task: `read_request` then refuses that."""
    config = body.get("training_config")
    task = config.get("task") if isinstance(config, dict) else None
    return task if isinstance(task, str) and task in by_task else "counting"


def read_request(
    body: dict,  # of POST /train, as `read_json` gives it
    form: dict,  # group → list of fields, from `request_form` for the task that the request names
) -> dict:  # job_name, data_file_id (None: drawn pictures), and `settings`: name in `GRPOSettings` → value
    """Check the body of a request for training.

    Raises one Problem that lists all that is wrong, each error with the field that it is about."""
    # Each error is a dict of field, code, message.
    errors = _unknown_keys(body, form) + _text_problems(body)
    settings = {}  # filled by `_read_group`
    task = requested_task(body)
    for group in form:  # training_config and lora_config
        errors += _read_group(body.get(group), group, form[group], settings, task)
    # Rules over several settings make sense only where each of them is good by itself.
    if not errors:
        errors = batch_problems(settings, form)
    if errors:
        raise _refusal_with(errors)
    return dict(job_name=clean(body["job_name"]), data_file_id=body.get("data_file_id"), settings=settings)


def _refusal_with(
    errors,  # dicts of field, such as training_config.top_p, code and message; at least one
):
    "The Problem that lists errors; its sentence for people repeats the first few of them"
    # The code of the whole is that of the first error, since a refusal has one code.
    sentences = [f"{error['field']}: {error['message']}" for error in errors[:_most_in_detail]]
    return Problem(errors[0]["code"], "; ".join(sentences), errors=errors[:_most_listed])


def value_problem(
    field: dict,  # of a form: type, choices, minimum, maximum
    value,  # what a request says, not None
) -> str | None:  # what is wrong with it
    "Say why a field of the form cannot have this value; None if it can"
    if not _is_of_type(value, field["type"]):
        return f"expected {field['type']}, found {clean(json.dumps(value), 60)}"
    if field["choices"] and value not in field["choices"]:
        shown_value = clean(value, 60)
        did_you_mean = nearest(shown_value, field["choices"])
        return f"{shown_value!r}{did_you_mean}"
    minimum, maximum = field["minimum"], field["maximum"]  # a field has both or neither
    if minimum is not None and not minimum <= value <= maximum:
        return f"{value} is not between {minimum} and {maximum}"
    return None


def _is_of_type(value, name):
    "Tell whether a value is of the type that a form calls int, float, bool or str; 3 is a float, 3.0 an int"
    # To Python, True is an int (1); in a request it is no number.
    if isinstance(value, bool) and name != "bool":
        return False
    if name == "int" and isinstance(value, float):
        return value.is_integer()  # JSON has one kind of number: 30.0 is an integer there, too
    return isinstance(value, _python_types[name])


def batch_problems(
    settings: dict,  # name in `GRPOSettings` → value, as the client chose
    form: dict,  # group → list of fields, from `request_form`
) -> list:  # of errors: empty, or one
    """Check that the answers of a step make whole groups, if the request sets how many there are.

    Their number is batch_size times gradient_accumulation_steps."""
    if "batch_size" not in settings or "gradient_accumulation_steps" not in settings:
        return []  # the server chooses what is missing, so that it fits (`plan`)
    values = form_defaults(form) | settings  # setting → value, chosen or by default
    answers = answers_a_step(values["batch_size"], values["gradient_accumulation_steps"])
    product = "batch_size × gradient_accumulation_steps"
    message = whole_groups_problem(answers, values["num_generations"], product)  # empty: nothing is wrong
    if not message:
        return []
    field = "training_config.batch_size"
    return [_error(field=field, code=field, message=message)]  # this error's code is the field's name


def form_defaults(
    form: dict,  # group → list of fields, from `request_form`
) -> dict:  # name in `GRPOSettings` → value
    """Return the value of each setting where a request gives none.

    The form has its own names, such as learning_rate; the name in `GRPOSettings`, lr, is the key here."""
    defaults = {}
    for group, fields in form.items():
        for field in fields:
            setting = form_fields[group][field["name"]].setting
            defaults[setting] = field["default"]
    return defaults


def _error(field, code, message):
    "One entry of a refusal's `errors`, which a page shows beside the field, such as training_config.top_p"
    return dict(field=field, code=code, message=message)


def _unknown_keys(
    body,  # of POST /train: job_name, data_file_id, and the two groups of settings
    form,  # has the names of these groups as keys: training_config, lora_config
):
    "List errors (dicts) for the keys of a request that are not known; what stands in a group is not checked"
    known_keys = ["job_name", "data_file_id", *form]
    errors = []
    for key in body:
        if key not in known_keys:
            shown_key = clean(key)
            message = f"there is no {shown_key!r}{nearest(shown_key, known_keys)}"  # ": did you mean …?"
            errors.append(_error(shown_key, "train.unknown", message))
    return errors


def _text_problems(
    body,  # of POST /train, a dict; its values may be of any type
):
    "List errors (dicts) for the two texts of a request, job_name and data_file_id"
    errors = []
    for name in ("job_name", "data_file_id"):
        text = body.get(name)
        # A request that names its task may leave out the data set: it trains on drawn pictures. A client
        # that names no task does not know of these, so it has forgotten its data set.
        if name == "data_file_id" and text is None and _names_a_task(body):
            continue
        if not _is_visible_text(text):
            message = f"expected a text of 1 to {_most_letters} characters"
            errors.append(_error(name, f"train.{name}", message))
    return errors


def _is_visible_text(text):
    "Whether a value is a text of allowed length that shows something in a list"
    if not isinstance(text, str) or len(text) > _most_letters:
        return False
    # `clean` makes a dot, ·, of each control character
    return clean(text).strip("· ") != ""


def _names_a_task(body):
    "Whether the body of POST /train says what is to be trained, and does not leave it to the server"
    # Whether the task exists is not asked here.
    config = body.get("training_config")
    return isinstance(config, dict) and config.get("task") is not None


def _read_group(
    values,  # what the request has under `group`: should be a dict, may be anything; None: nothing
    group,  # training_config or lora_config
    fields,  # of this group for the request's task: dicts with name, type, choices, minimum, maximum
    settings,  # name in `GRPOSettings` → value, such as lr → 5e-5; filled here
    task,  # of the request, such as counting
):
    "Put the good values of a group into `settings`, and return a list of errors (dicts) for the rest"
    if values is None:
        return []
    if not isinstance(values, dict):
        return [_error(group, f"{group}.type", "expected an object")]

    fields_of_task = {field["name"]: field for field in fields}
    fields_of_all_tasks = form_fields[group]  # name → `FormField`
    errors = []
    for written_name, value in values.items():
        # Names of other libraries are taken too, such as lr for the form's own name, learning_rate.
        name = also_called[written_name] if written_name in also_called else written_name
        shown_name = clean(written_name, 80)
        place = f"{group}.{shown_name}"
        if name not in fields_of_all_tasks:
            advice = nearest(shown_name, list(fields_of_task))  # ": did you mean …?"
            errors.append(_error(place, f"{group}.unknown", f"there is no {shown_name!r}{advice}"))
            continue
        field = fields_of_task.get(name)  # None: only other tasks have it
        message = _take_setting(field, fields_of_all_tasks[name], value, settings, task)
        if message:
            errors.append(_error(place, f"{group}.{name}", message))
    return errors


def _take_setting(
    field,  # dict of type, choices, minimum, maximum for the request's task; None: a setting of other tasks
    form_field,  # the same setting as a `FormField`, for all tasks: its name in `GRPOSettings`, and its tasks
    value,  # what the request gives, of any type
    settings,  # name in `GRPOSettings` → value; gets the value if it is good
    task,  # of the request, such as counting
):
    "Take one value of a request over into `settings`; return what is wrong with it, a text, or None"
    if field is None:
        if value is None:
            return None  # null counts as not given
        tasks = ", ".join(tasks_of(form_field))
        return f"belongs to task {tasks}, and this request is for task {task}"
    message = _take_value(field, form_field.setting, value, settings)  # None: taken, nothing is wrong
    if not message:
        return None
    return message + _tasks_with_choice(form_field, value, task)  # such as "; it is a choice of task vqa, …"


def _tasks_with_choice(
    field,  # `FormField`: has the choices of every task
    value,  # that was refused
    task,  # of the request, such as counting
):
    """Return the end of a message about a bad value: the other tasks in which it could be chosen, or "".

    Such as: "; it is a choice of task vqa, not of counting"."""
    tasks = []
    for other in by_task:
        # What a server of either size offers.
        choices = [*(choices_of(field, "tiny", other) or []), *(choices_of(field, "gpu", other) or [])]
        if value in choices:
            tasks.append(other)
    # `task in tasks`: a choice of this task, on a server of the other size.
    if not tasks or task in tasks:
        return ""
    return f"; it is a choice of task {', '.join(tasks)}, not of {task}"


def _take_value(
    field,  # of the form, a dict: type, choices, minimum, maximum
    setting,  # its name in `GRPOSettings`, such as lr
    value,  # what a request gives, of any type
    settings,  # name in `GRPOSettings` → value; gets the value if it is good
):
    "Put one value of a request into `settings`; return what is wrong with it, a text, or None"
    if setting in settings:
        return "is given twice, under two names"
    if value is None:
        return None  # null counts as not given, and nothing is wrong with it
    message = value_problem(field, value)
    if message:
        return message
    # A whole number is accepted where a float is expected, and 30.0 where an int is.
    number_types = {"int": int, "float": float}
    convert = number_types.get(field["type"])  # None for a bool or a text
    settings[setting] = convert(value) if convert else value
    return None


def refuse_clashes(
    parameters: dict,  # of the GRPO run: name in `GRPOSettings` → value, complete but for the data
):
    """Raise a Problem if settings that are good one by one contradict each other in a GRPO run.

    Without this check the job would wait in the queue first, and fail at its start."""
    try:
        read_settings(GRPOSettings, parameters)
    except SettingsError as error:
        raise Problem("train.settings", str(error)) from error
