"""Finds libtorch and ONNX Runtime in this Python environment, then becomes the program that was asked for.

Nothing heavy is imported: packages are looked up where Python would find them, and the program takes this
process's place, so that its signals, exit status and streams are the caller's.
"""

import importlib.util
import os
import signal
import sys

TOOLS = ("occlude-train", "occlude-export", "occlude-detectron", "occlude-serve")
# The release that the trainer is linked with: libtorch has no stable interface.
TORCH = "2.11"
# The oldest Python that this release has wheels for.
TORCH_PYTHON = (3, 10)
HOME = os.path.dirname(os.path.abspath(__file__))


class Unusable(Exception):
    """Why there is no library to start a program with, and what to do about it."""


def program(tool):
    """Where the program itself lies."""
    return os.path.join(HOME, "bin", tool)


def folder(package, file):
    """The folder of an installed package that holds `file`; `None` where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec else None
    # A folder of that name that is no package, as the current one may hold, is a place as well.
    found = (os.path.abspath(place) for place in places or ())
    return next((place for place in found if os.path.exists(os.path.join(place, file))), None)


def version(root):
    """The release of the libtorch in a folder, as its own files say; `None` where they do not."""
    for name in ("version.py", "build-version"):
        try:
            with open(os.path.join(root, name), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        if name == "build-version":
            return lines[0].strip() if lines else None
        for line in lines:
            if line.startswith("__version__"):
                return line.split("=")[-1].strip(" '\"")
    return None


def install():
    """How to get the torch that is needed, in words."""
    if sys.version_info < TORCH_PYTHON:
        return "torch %s needs Python %d.%d or later: install the wheel into an environment of that" % ((TORCH,) + TORCH_PYTHON)
    python = sys.executable or "python3"
    return "`%s -m pip install torch==%s.0`" % ("'%s'" % python if " " in python else python, TORCH)


def libtorch():
    """The folder of libtorch: `LIBTORCH`, else the package `torch`; `Unusable` where it does not fit."""
    named = os.environ.get("LIBTORCH")
    if named:
        root, place = os.path.abspath(named), "`LIBTORCH` (`%s`)" % named
        if not os.path.exists(os.path.join(root, "lib", "libtorch.so")):
            raise Unusable("`LIBTORCH` names `%s`, which holds no `lib/libtorch.so`" % named, "correct or unset it")
    else:
        root, place = folder("torch", "lib/libtorch.so"), "`%s`" % sys.prefix
        if root is None:
            raise Unusable("torch %s is needed, and %s has none" % (TORCH, place), install())
    found = version(root)
    if found is not None and found.split(".")[:2] != TORCH.split("."):
        raise Unusable("torch %s is needed, and %s has %s" % (TORCH, place, found), install())
    return root


def onnxruntime():
    """The library of the package `onnxruntime` (or `onnxruntime-gpu`); `None` where there is none."""
    root = folder("onnxruntime", "capi")
    capi = os.path.join(root, "capi") if root else None
    names = sorted(name for name in os.listdir(capi) if name.startswith("libonnxruntime.so")) if capi else []
    return os.path.join(capi, names[-1]) if names else None


def environment(tool):
    """The variables that the program is started with; what the user has set stays."""
    variables = dict(os.environ)
    if tool == "occlude-train":
        path = [os.path.join(libtorch(), "lib"), variables.get("LD_LIBRARY_PATH")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, path))
    # An empty variable counts as one that is not set.
    if not variables.get("ORT_DYLIB_PATH"):
        variables.pop("ORT_DYLIB_PATH", None)
        library = onnxruntime()
        if library:
            variables["ORT_DYLIB_PATH"] = library
    if not variables.get("OCCLUDE_PYTHON") and sys.executable:
        variables["OCCLUDE_PYTHON"] = sys.executable
    return variables


def become(tool, arguments, name=None):
    """Replaces this process with a program. Returns the exit status only where that is not possible."""
    try:
        variables = environment(tool)
        # Python ignores these; the program begins as if a shell had started it.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(program(tool), [name or tool] + arguments, variables)
    except Unusable as unusable:
        reason, hint = unusable.args
    except OSError as error:
        reason, hint = "`%s` does not start: %s" % (program(tool), error.strerror), "install the wheel again"
    print("error: %s: %s\nhint: %s" % (tool, reason, hint), file=sys.stderr)
    return 1


def _command(tool):
    return lambda: become(tool, sys.argv[1:], sys.argv[0])


train, export, detectron, serve = (_command(tool) for tool in TOOLS)
