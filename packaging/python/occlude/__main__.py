"""`python -m occlude`: what there is; `doctor`; any of the programs by its name."""

import os
import platform
import subprocess
import sys
from importlib import metadata

from occlude import launch

USAGE = """usage: python -m occlude doctor
       python -m occlude TOOL [ARGUMENT]...

  train      pretrain an encoder and evaluate it (needs torch {torch})
  export     a checkpoint to ONNX, safetensors or torch; verify (int8 and verify need onnxruntime)
  detectron  a checkpoint to Detectron2 and back
  serve      embeddings, saliency masks and search over HTTP (needs onnxruntime)

The same programs are the commands {tools}; each has --help."""


def installed(*names):
    """Name and version of the first of these distributions that is there."""
    for name in names:
        try:
            return "%s %s" % (name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return None


def row(state, name, value, hint=None):
    """One finding; whether it is a fault."""
    print("  %-8s %-18s %s" % (state, name, value), flush=True)
    if hint:
        print("%30shint: %s" % ("", hint), flush=True)
    return state == "MISSING"


def torch():
    """libtorch, for the trainer alone: where there is no torch at all, the other programs still work."""
    try:
        root = launch.libtorch()
        return row("ok", "torch", "%s in `%s`" % (launch.version(root), root))
    except launch.Unusable as unusable:
        absent = not os.environ.get("LIBTORCH") and launch.folder("torch", "lib/libtorch.so") is None
        return row("-" if absent else "MISSING", "torch", *unusable.args)


def onnxruntime():
    """ONNX Runtime, and whether it is the build for CUDA."""
    named = os.environ.get("ORT_DYLIB_PATH")
    library = named or launch.onnxruntime()
    if library is None:
        hint = "`%s -m pip install onnxruntime` (or onnxruntime-gpu) to serve, verify and quantise" % sys.executable
        return row("-", "onnxruntime", "not installed", hint)
    if not os.path.exists(library):
        return row("MISSING", "onnxruntime", "`ORT_DYLIB_PATH` names `%s`, which is not there" % library, "correct or unset it")
    cuda = os.path.exists(os.path.join(os.path.dirname(library), "libonnxruntime_providers_cuda.so"))
    what = "`ORT_DYLIB_PATH`" if named else installed("onnxruntime-gpu", "onnxruntime") or "version unknown"
    return row("ok", "onnxruntime", "%s, %s, `%s`" % (what, "CPU and CUDA" if cuda else "CPU", library))


def tool(name):
    """Whether a program starts here; the loader's own words where it does not."""
    try:
        variables = launch.environment(name)
    except launch.Unusable:
        return row("-", name, "not without its libtorch: see above")
    run = subprocess.run([launch.program(name), "--version"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode == 0:
        return row("ok", name, run.stdout.decode().strip())
    return row("MISSING", name, "does not start: " + run.stderr.decode(errors="replace").strip())


def doctor():
    """Prints what is here and what is missing; 1 where something that is here does not work."""
    print("occlude %s" % (installed("occlude") or "unknown").split()[-1])
    faults = row("ok", "python", "%s, `%s`, %s" % (platform.python_version(), sys.executable, " ".join(platform.libc_ver())))
    faults += torch()
    faults += onnxruntime()
    faults += sum(tool(name) for name in launch.TOOLS)
    try:
        variables = launch.environment("occlude-train")
    except launch.Unusable:
        return int(faults > 0)
    print("occlude-train doctor", flush=True)
    faults += subprocess.call([launch.program("occlude-train"), "doctor"], env=variables) != 0
    return int(faults > 0)


def main(arguments):
    """The exit status."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(USAGE.format(torch=launch.TORCH, tools=", ".join(launch.TOOLS)))
        return 0
    if name == "doctor":
        return doctor()
    full = name if name.startswith("occlude-") else "occlude-" + name
    if full in launch.TOOLS:
        return launch.become(full, arguments[1:])
    print("error: there is no `%s`\n\n%s" % (name, USAGE.format(torch=launch.TORCH, tools=", ".join(launch.TOOLS))), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
