"""Checks a request for training: every name, type, range and rule; all that is wrong is said at once.

Written by hand, not exported from a notebook."""
import json

from ..settings import answers_a_step, nearest, whole_groups_problem
from .refusals import Problem, clean
from .training_form import also_called, form_fields, not_offered

__all__ = ["read_request", "value_problem", "batch_problems", "form_defaults"]

_most_letters = 200  # of a job's name and of an upload's identifier
_most_told = 50  # errors listed in a refusal: a page shows no more, and a stranger's mistakes have no end
_most_in_detail = 3  # errors repeated in the sentence for people

_python_types: dict = {"int": int, "float": (int, float), "bool": bool, "str": str}  # by a field's `type`


def read_request(
    body: dict,  # of POST /train, as `read_json` gives it
    form: dict,  # from `request_form`
) -> dict:  # job_name, data_file_id, and `settings`: chapter 05's names → values
    "A request for training, checked; a Problem with all that is wrong, each with the field that it is about"
    errors = _unknown_keys(body, form) + _text_problems(body)
    settings = {}
    for group in form:
        errors += _read_group(body.get(group), group, form[group], settings)
    # Rules over several settings make sense only where each of them is good by itself.
    if not errors:
        errors = batch_problems(settings, form)
    if errors:
        sentences = [f"{error['field']}: {error['message']}" for error in errors[:_most_in_detail]]
        raise Problem(errors[0]["code"], "; ".join(sentences), errors=errors[:_most_told])
    return dict(job_name=clean(body["job_name"]), data_file_id=body["data_file_id"], settings=settings)


def value_problem(
    field: dict,  # of a form: type, choices, minimum, maximum
    value,  # what a request says, not None
) -> str | None:  # what is wrong with it
    "Why a field cannot have this value; None where it can"
    is_of_type = isinstance(value, _python_types[field["type"]])
    # True is the whole number 1 to Python; whoever writes it for a number means something else.
    if isinstance(value, bool) and field["type"] != "bool":
        is_of_type = False
    if not is_of_type:
        return f"expected {field['type']}, found {clean(json.dumps(value), 60)}"
    if field["choices"] and value not in field["choices"]:
        written = clean(value, 60)
        did_you_mean = nearest(written, field["choices"])
        return f"{written!r}{did_you_mean}"
    minimum, maximum = field["minimum"], field["maximum"]  # a field has both or neither
    if minimum is not None and not minimum <= value <= maximum:
        return f"{value} is not between {minimum} and {maximum}"
    return None


def batch_problems(
    settings: dict,  # chapter 05's names → values that the client chose
    form: dict,  # from `request_form`
) -> list:  # of errors: empty, or one
    "What is wrong with a batch that a client chose in both its parts: a step's answers must make whole groups"
    if "batch_size" not in settings or "gradient_accumulation_steps" not in settings:
        return []  # the client left one of them to the server, and `plan` finds one that fits
    values = form_defaults(form) | settings
    answers = answers_a_step(values["batch_size"], values["gradient_accumulation_steps"])
    product = "batch_size × gradient_accumulation_steps"
    message = whole_groups_problem(answers, values["num_generations"], product)
    if not message:
        return []
    field = "training_config.batch_size"
    return [_error(field, field, message)]


def form_defaults(
    form: dict,  # from `request_form`
) -> dict:  # chapter 05's names → values
    "What each setting of the form is where a request says nothing"
    defaults = {}
    for group, fields in form.items():
        for field in fields:
            setting = form_fields[group][field["name"]].setting
            defaults[setting] = field["default"]
    return defaults


def _error(field, code, message):
    "One entry of a refusal's `errors`, which a page shows beside the field"
    return dict(field=field, code=code, message=message)


def _unknown_keys(body, form):
    "Errors for keys of the request itself that there are not"
    known = ["job_name", "data_file_id", *form]
    errors = []
    for key in body:
        if key not in known:
            written = clean(key)
            message = f"there is no {written!r}{nearest(written, known)}"
            errors.append(_error(written, "train.unknown", message))
    return errors


def _text_problems(body):
    "Errors for the two texts that every request must have"
    errors = []
    for name in ("job_name", "data_file_id"):
        text = body.get(name)
        is_good = isinstance(text, str) and len(text) <= _most_letters
        # A name of control characters and spaces alone could not be seen in any list; `clean` shows them as
        # dots.
        is_good = is_good and clean(text).strip("· ") != ""
        if not is_good:
            errors.append(_error(name, f"train.{name}", "expected a text of 1 to 200 characters"))
    return errors


def _read_group(given, group, fields, settings):
    "Put the good values of training_config or lora_config into `settings`; errors for the others"
    if given is None:
        return []
    if not isinstance(given, dict):
        return [_error(group, f"{group}.type", "expected an object")]
    known = {field["name"]: field for field in fields}
    errors = []
    for written, value in given.items():
        name = also_called[written] if written in also_called else written
        shown = clean(written, 80)
        place = f"{group}.{shown}"
        if name not in known:
            message = not_offered.get(name) or f"there is no {shown!r}{nearest(shown, list(known))}"
            errors.append(_error(place, f"{group}.unknown", message))
            continue
        message = _take_value(known[name], form_fields[group][name].setting, value, settings)
        if message:
            errors.append(_error(place, f"{group}.{name}", message))
    return errors


def _take_value(field, setting, value, settings):
    "Put one value into `settings`, or say what is wrong with it"
    if setting in settings:
        return "is given twice, under two names"
    if value is None:
        return None  # as if it had not been written
    message = value_problem(field, value)
    if message:
        return message
    # 8 where a float is expected is meant, and taken.
    settings[setting] = float(value) if field["type"] == "float" else value
    return None
