# Finds libtorch and ONNX Runtime for the tool `$tool` of the bundle `$home`, in this order:
#   libtorch      $LIBTORCH, lib/ of the bundle, the package `torch` of $OCCLUDE_PYTHON (default: python3)
#   ONNX Runtime  $ORT_DYLIB_PATH, lib/ of the bundle, the package `onnxruntime` (or `onnxruntime-gpu`) there
# Only the trainer needs libtorch. The nvidia-* packages beside torch serve both on a GPU.
python=${OCCLUDE_PYTHON:-python3}

{ read -r torch && read -r version && read -r runtime && read -r nvidia; } <<END || :
$("$python" - 2>/dev/null <<'PYTHON'
import glob
import importlib.metadata
import importlib.util
import os


def folder(name):
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations or [""])[0] if spec else ""


torch, runtime = folder("torch"), folder("onnxruntime")
libraries = sorted(glob.glob(os.path.join(runtime, "capi", "libonnxruntime.so*"))) if runtime else []
beside = os.path.dirname(torch or runtime)
print(os.path.join(torch, "lib") if torch else "")
print(importlib.metadata.version("torch") if torch else "")
print(libraries[-1] if libraries else "")
print(":".join(sorted(glob.glob(os.path.join(beside, "nvidia", "*", "lib")))) if beside else "")
PYTHON
)
END

if [ -n "${LIBTORCH:-}" ]; then
    torch=$LIBTORCH/lib version=
elif [ -e "$home/lib/libtorch.so" ]; then
    torch=$home/lib version=
fi

if [ "$tool" = occlude-train ]; then
    if [ -z "${torch:-}" ] || [ ! -e "$torch/libtorch.so" ]; then
        echo "error: libtorch 2.11 was not found for \`$tool\`" >&2
        echo "hint: \`pip install torch==2.11.0\` where \`$python\` finds it, or set \`LIBTORCH\` or \`OCCLUDE_PYTHON\`" >&2
        exit 1
    fi
    case ${version:-2.11} in
        2.11*) ;;
        *)
            echo "error: \`$tool\` needs libtorch 2.11, and \`$python\` has torch $version" >&2
            echo "hint: \`pip install torch==2.11.0\` in an environment of its own, then set \`OCCLUDE_PYTHON\` to its python" >&2
            exit 1
            ;;
    esac
fi

if [ -z "${ORT_DYLIB_PATH:-}" ]; then
    if [ -e "$home/lib/libonnxruntime.so" ]; then
        ORT_DYLIB_PATH=$home/lib/libonnxruntime.so
    else
        ORT_DYLIB_PATH=${runtime:-}
    fi
fi
if [ -n "$ORT_DYLIB_PATH" ]; then
    export ORT_DYLIB_PATH
else
    unset ORT_DYLIB_PATH
fi

paths=$home/lib${torch:+:$torch}${nvidia:+:$nvidia}
LD_LIBRARY_PATH=$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
