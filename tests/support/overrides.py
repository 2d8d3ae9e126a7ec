"""Which methods of libraries this package overrides, and what their source was when somebody read it.

A method is told by a hash of its parsed source: comments and layout may change, what it does may not."""
import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import textwrap
from importlib import metadata
from pathlib import Path

import vlrlbook

READ = Path(__file__).with_name("overrides.json")
LIBRARIES = {"trl", "transformers", "peft", "accelerate", "torch", "lerobot", "uvicorn", "starlette", "fastapi", "datasets"}
# bookkeeping that Python itself puts into a class
UNTOLD = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__subclasshook__", "__repr__", "__eq__"}


def modules():
    "Every module of the package that can be imported without starting anything"
    for found in pkgutil.walk_packages(vlrlbook.__path__, "vlrlbook."):
        if not found.name.endswith("__main__") and ".jupyter" not in found.name: yield importlib.import_module(found.name)


def classes():
    "(our class, the library's class that comes behind it); a mixin is looked at before what it is mixed into"
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from vlrlbook.service import server
    yield server.patient(1), H11Protocol # made within a function
    for module in modules():
        yield from mixins(module)
        for own in vars(module).values():
            if inspect.isclass(own) and own.__module__ == module.__name__:
                yield from ((own, behind) for behind in own.__mro__[1:])


def mixins(module):
    "(our class, a library's trainer) for each class that a module puts before that trainer, in a function too"
    from transformers import Trainer
    from trl import GRPOTrainer
    trainers = {"GRPOTrainer": GRPOTrainer, "Trainer": Trainer}
    for statement in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(statement, ast.ClassDef): continue
        bases = [base.id for base in statement.bases if isinstance(base, ast.Name)]
        trainer = next((trainers[name] for name in bases if name in trainers), None)
        if trainer is None: continue
        for name in bases:
            own = vars(module).get(name)
            # what a mixin has from another class of ours counts too; a class of a library does not
            lineage = own.__mro__ if inspect.isclass(own) else ()
            yield from ((base, trainer) for base in lineage if base.__module__.startswith("vlrlbook."))


def overridden():
    "Name of the library's method → our class that overrides it"
    found = {}
    for own, behind in classes():
        for name, function in vars(own).items():
            owner = next((c for c in behind.__mro__ if name in vars(c)), None)
            if name in UNTOLD or owner is None or not callable(getattr(function, "__func__", function)): continue
            library = owner.__module__.partition(".")[0]
            if owner.__module__ == "torch.nn.modules.module": continue # a public base, made to be overridden
            if library in LIBRARIES and does_something(vars(owner)[name]):
                found[f"{owner.__module__}.{owner.__qualname__}.{name}"] = f"{own.__module__}.{own.__qualname__}"
    return found


def parsed(function):
    "The body of a method without its docstring, as a syntax tree; None for what has no source"
    function = inspect.unwrap(getattr(function, "__func__", getattr(function, "func", function)))
    try: tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError): return None # made at run time, such as a dataclass's __init__
    if ast.get_docstring(tree) is not None: tree.body = tree.body[1:]
    return tree


def does_something(function):
    "Whether there is anything to read: a hook that is empty until somebody fills it may change as it likes"
    tree = parsed(function)
    return tree is not None and any(not isinstance(line, (ast.Pass, ast.Raise)) for line in tree.body)


def source_hash(name):
    "Hash of the method that a dotted name tells; None where there is no such method any more"
    module, qualified = name, []
    while module:
        module, _, last = module.rpartition(".")
        qualified.insert(0, last)
        try: found = importlib.import_module(module)
        except ImportError: continue
        for part in qualified:
            found = inspect.getattr_static(found, part, None)
        tree = found and parsed(found)
        return tree and hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def read():
    "What was read: name → hash and release"
    return json.loads(READ.read_text())


def write():
    "Note all overridden methods as read, in the releases that are installed"
    rows = {}
    for name, own in sorted(overridden().items()):
        library = name.partition(".")[0]
        rows[name] = dict(hash=source_hash(name), release=metadata.version(library), by=own)
    READ.write_text(json.dumps(rows, indent=1) + "\n")
