"""The steps around the trainer: does it compute what it should, how fast is it, where does its time go."""

import glob
import json
import math
import os
import shutil
import sys

from runner import HOME, Failed, Skipped, cores, read

# all that the trainer has, and which of them keep keys in a queue
RECIPES = ["moco-v2", "saliency-moco", "saliency-moco-small", "mscn-moco", "simclr", "simclr-small", "saliency-simclr", "mixmask", "unmix", "unmix+mixmask",
           "byol", "byol-small", "lewel-b-eman", "lewel-b", "lewel-m", "lewel-small", "dino", "ibot", "ibot-attmask", "ibot-dense", "ibot-small", "distill"]
# whose encoder teaches in `distill`
TEACHER = "moco-v2"
QUEUED = {"moco-v2", "saliency-moco", "mscn-moco", "mixmask", "unmix", "unmix+mixmask", "lewel-m"}
# parts of the selftest other than the recipes
STAGES = ["forward", "golden", "masks", "colours", "copies", "steps", "resume", "collectives"]
# heads of a few units: checkpoints of this step are for resuming alone, and published heads make most of them
HEADS = {"dino": ["--prototypes", "256", "--hidden", "64"], "ibot": ["--prototypes", "256", "--hidden", "64"],
         "byol": ["--hidden", "64", "--predictor-hidden", "64"], "lewel": ["--hidden", "64"]}
FULL = {"arch": "resnet50", "size": 224, "batch": 256, "steps": 60, "warm": 20, "queue": 65536, "matmul": 8192, "copy_mib": 2048}
TINY = {"arch": "resnet18", "size": 32, "batch": 16, "steps": 4, "warm": 2, "queue": 256, "matmul": 256, "copy_mib": 8}
SMALL = {**FULL, "arch": "resnet18", "size": 64, "batch": 128}


def sizes(run):
    return TINY if run.tiny else FULL


def precision(run):
    """bfloat16 on a GPU; a CPU only tries whether everything runs."""
    return "bf16" if run.device == "cuda" else "fp32"


# -- check


def doctor(run):
    found = json.loads(run.command([*run.tool("occlude-train"), "doctor", "--json"], "doctor", 60).strip().splitlines()[-1])
    if run.device == "cuda" and not found.get("cuda"):
        raise failed("no CUDA device is usable by the trainer", found)
    return found


def failed(reason, figures):
    error = Failed(reason)
    error.figures = figures
    return error


def selftest(run, name, env):
    """Every row of the trainer's table: what was found, the bound, and whether it holds."""
    if run.device == "cpu" and name != "tf32-off":
        raise Skipped("only CUDA has TF32")
    words = [*run.tool("occlude-train"), "selftest", "--device", run.device]
    if run.tiny and run.device == "cpu":
        # a CPU agrees with itself; `methods` takes the steps of every recipe
        words += [word for stage in STAGES for word in ("--only", stage)]
    text = run.command(words, f"selftest {name}", 300, env, ok=(0, 3))
    rows = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and words[-1] in ("ok", "FAILED"):
            rows[" ".join(words[:-4])] = {"found": float(words[-4]), "bound": " ".join(words[-3:-1]), "ok": words[-1] == "ok"}
    bad = [row for row, found in rows.items() if not found["ok"]]
    if not rows:
        raise Failed("the selftest printed no table")
    if bad:
        raise failed(f"past the bound: {', '.join(bad)}", rows)
    return rows


def methods(run):
    """Two steps of every recipe, stopped in between and resumed; both losses are numbers."""
    data = pictures(run, 32)
    figures, bad = {}, []
    for recipe in RECIPES:
        out = fresh(run, f"methods/{recipe}")
        words = [*run.tool("occlude-train"), "pretrain", data, "--recipe", recipe, "--batch-size", "16", "--epochs", "1",
                 "--warmup-epochs", "0", "--device", run.device, "--out", out, "--log-every", "1", "--on-collapse", "warn",
                 "--precision", precision(run)]
        if recipe.startswith(("dino", "ibot")):
            # what is written counts, not what is computed, where only the steps are of interest
            arch = "vit_64x2x2_patch8_64" if run.tiny else "vit_tiny_patch8_64"
            words += ["--arch", arch, "--image-size", "64", "--views", "1,1,2x32:0.05-0.4"]
        else:
            # a student's batch is normalised in one piece anyway
            splits = [] if recipe == "distill" else ["--bn-splits", "1"]
            words += ["--arch", "resnet18", "--image-size", "32", *splits]
        if run.device == "cpu":
            words += ["--threads", "1", "--workers", "1"]
        words += next((flags for name, flags in HEADS.items() if recipe.startswith(name)), [])
        if recipe in QUEUED:
            words += ["--queue", "64"]
        if recipe == "distill":
            teacher = os.path.join(run.work, "methods", TEACHER, "checkpoint_0000.safetensors")
            words += ["--teacher", teacher, "--teacher-cache", fresh(run, "methods/said"), "--hidden", "64", "--dim", "8"]
        if recipe.startswith("saliency") or recipe == "mscn-moco":
            words += ["--saliency-stage", "3"]
        run.command([*words, "--stop-after", "1"], "methods", 60)
        run.command([*words, "--resume"], "methods", 60)
        losses = [row["loss"] for row in lines(out, "step")]
        if recipe != TEACHER:
            shutil.rmtree(out)
        figures[recipe] = {"losses": losses}
        if len(losses) != 2 or not all(isinstance(loss, float) and math.isfinite(loss) for loss in losses):
            bad.append(recipe)
    if bad:
        raise failed(f"not two finite losses: {', '.join(bad)}", figures)
    return figures


def tests(run):
    """The trainer's own test programs; tests that want a device take the one that is named."""
    programs = sorted(glob.glob(os.path.join(run.file("tests"), "*")))
    figures, bad = {}, []
    for program in programs:
        name = os.path.basename(program)
        words = [program, "--test-threads", "1" if run.device == "cuda" else str(cores())]
        try:
            text = run.command(words, f"tests {name}", 240, {**run.native(), "OCCLUDE_TEST_DEVICE": run.device})
        except Failed as reason:
            bad.append(f"{name}: {reason}")
            continue
        verdict = [row for row in text.splitlines() if row.startswith("test result:")]
        figures[name] = verdict[-1] if verdict else "no verdict"
    if bad:
        raise failed("; ".join(bad), figures)
    return figures


def sanitizer(run):
    """One small step under compute-sanitizer: reads and writes outside of memory, whoever made them."""
    program = shutil.which("compute-sanitizer")
    if run.device != "cuda" or program is None:
        raise Skipped("compute-sanitizer is not on the PATH" if run.device == "cuda" else "only for CUDA")
    words = [program, "--tool", "memcheck", "--target-processes", "all", "--error-exitcode", "9",
             *run.tool("occlude-train"), "pretrain", pictures(run, 64), "--recipe", "saliency-moco", "--arch", "resnet18",
             "--image-size", "64", "--batch-size", "16", "--queue", "64", "--bn-splits", "1", "--device", "cuda",
             "--epochs", "1", "--stop-after", "1", "--out", fresh(run, "sanitizer")]
    text = run.command(words, "sanitizer", 300)
    return {"summary": next((row for row in text.splitlines() if "ERROR SUMMARY" in row), None)}


# -- throughput


def rates(run):
    """What the card does at most: products, copies, and the floor that follows for a step."""
    size = sizes(run)
    words = [sys.executable, os.path.join(HOME, "kit", "rates.py"), "--device", run.device, "--arch", size["arch"], "--size", size["size"],
             "--matmul", size["matmul"], "--copy-mib", size["copy_mib"]]
    return last(run.command(words, "rates", 120))


def ours_synthetic(run, recipe, size=None, more=()):
    """`occlude-train profile` on pictures that lie in memory: throughput and the table of phases."""
    size = size or sizes(run)
    return profile(run, ["--synthetic"], f"{recipe} synthetic", recipe, size, more)


def ours_unsplit(run, recipe):
    """Normalised in one group, as the best PyTorch normalises: the published recipe has eight, which cost time."""
    size = sizes(run)
    # the smallest sizes have one group anyway
    one = () if run.tiny else ("--bn-splits", "1")
    return profile(run, ["--synthetic"], f"{recipe} synthetic, one group", recipe, size, one)


def ours_profiled(run, recipe):
    """Likewise from JPEG files."""
    size = sizes(run)
    data = pictures(run, size["batch"] * (size["steps"] + 8))
    return profile(run, [data], f"{recipe} profile", recipe, size)


def profile(run, source, log, recipe, size, more=()):
    report = os.path.join(run.work, log.replace(" ", "-") + ".json")
    if os.path.exists(report):
        os.remove(report)
    words = [*run.tool("occlude-train"), "profile", *source, "--recipe", recipe, "--arch", size["arch"], "--image-size", size["size"],
             "--batch-size", size["batch"], "--device", run.device, "--steps", size["steps"],
             "--warmup", max(2, size["warm"] // 2), "--json", report, *more]
    run.command([*words, *smallest(run, recipe)], log, 240)
    found = read(report)
    if not found or "images_per_second" not in found:
        raise Failed("`occlude-train profile` wrote no figures")
    return found


def smallest(run, recipe):
    """What the smallest sizes need besides: the published recipes are written for 224 px and 65,536 negatives."""
    if not run.tiny:
        return []
    words = ["--bn-splits", "1"] if recipe.endswith("small") else ["--bn-splits", "1", "--queue", TINY["queue"]]
    return [*words, "--saliency-stage", "3"] if recipe.startswith("saliency") else words


def ours_files(run, recipe):
    """`occlude-train pretrain` as a user runs it: every picture is decoded every time."""
    size = sizes(run)
    total = size["steps"] + size["warm"]
    out = fresh(run, f"{recipe}-files")
    words = [*run.tool("occlude-train"), "pretrain", pictures(run, size["batch"] * total), "--recipe", recipe, "--arch", size["arch"],
             "--image-size", size["size"], "--batch-size", size["batch"], "--device", run.device, "--precision", precision(run),
             "--epochs", "1", "--cache", "0", "--log-every", "2" if run.tiny else "10", "--on-collapse", "warn", "--out", out]
    run.command([*words, *smallest(run, recipe)], f"{recipe} files", 300)
    rows = [row for row in lines(out, "step") if row["step"] > size["warm"]]
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["seconds"] * row["images_per_s"] for row in rows)
    waited = sum(row["seconds"] * row["data_wait"] for row in rows)
    if not rows or seconds <= 0:
        raise Failed("`metrics.jsonl` has no lines behind the warm-up")
    return {"images_per_second": images / seconds, "wait_share": waited / seconds, "steps": size["steps"], "cores": cores()}


def peer(run, kind, recipe, source):
    """The same in PyTorch: `published` as the papers' code is, `best` as fast as PyTorch goes."""
    size = sizes(run)
    words = [sys.executable, os.path.join(HOME, "kit", "peer.py"), "--kind", kind, "--recipe", recipe, "--device", run.device]
    for name in ("arch", "size", "batch", "steps", "warm", "queue"):
        words += [f"--{name}", size[name]]
    if kind == "published" or run.tiny:
        # slower: fewer steps say as much
        words += ["--steps", max(2, size["steps"] // 3), "--warm", max(1, size["warm"] // 4)]
    words += ["--workers", "2" if run.tiny else ("8" if kind == "published" else str(cores()))]
    if kind == "best" and not run.tiny:
        words.append("--compile")
    if source == "files":
        words += ["--data", pictures(run, size["batch"] * (size["steps"] + size["warm"]))]
    return last(run.command(words, f"{kind} {recipe} {source}", 300))


# -- helpers


def last(text):
    """The JSON object on the last line."""
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed("no figures were printed") from None


def lines(out, kind):
    """Rows of a run's metrics."""
    with open(os.path.join(out, "metrics.jsonl")) as file:
        return [row for row in map(json.loads, file) if row["kind"] == kind]


def fresh(run, name):
    """An empty folder for a run."""
    path = os.path.join(run.work, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def pictures(run, count):
    """A folder of `count` JPEG files: the kit's photos again and again, under other names."""
    photos = sorted(glob.glob(os.path.join(run.file("data", "photos"), "*.jpg")))
    if not photos:
        raise Skipped("the kit has no photos")
    with run.files:
        return linked(os.path.join(run.work, f"photos-{count}"), photos, count)


def linked(folder, photos, count):
    """The folder, which is filled where it is not."""
    if len(glob.glob(os.path.join(folder, "*.jpg"))) == count:
        return folder
    os.makedirs(folder, exist_ok=True)
    for i in range(count):
        path = os.path.join(folder, f"{i:06}.jpg")
        if not os.path.exists(path):
            try:
                os.link(photos[i % len(photos)], path)
            except OSError:
                shutil.copyfile(photos[i % len(photos)], path)
    return folder


def steps(run):
    """Name, stage and work, in order of worth."""
    off, on = {"NVIDIA_TF32_OVERRIDE": "0"}, {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    yield "doctor", "check", lambda: doctor(run)
    yield "selftest, TF32 off", "check", lambda: selftest(run, "tf32-off", off)
    yield "selftest, TF32 on", "check", lambda: selftest(run, "tf32-on", on)
    yield "methods", "check", lambda: methods(run)
    yield "rates", "throughput", lambda: rates(run)
    for recipe in ("moco-v2", "saliency-moco"):
        yield f"{recipe} synthetic", "throughput", lambda recipe=recipe: ours_synthetic(run, recipe)
    yield "best moco-v2 synthetic", "throughput", lambda: peer(run, "best", "moco-v2", "synthetic")
    yield "moco-v2 synthetic, one group", "throughput", lambda: ours_unsplit(run, "moco-v2")
    yield "moco-v2 files", "throughput", lambda: ours_files(run, "moco-v2")
    yield "published moco-v2 files", "throughput", lambda: peer(run, "published", "moco-v2", "files")
    yield "best moco-v2 files", "throughput", lambda: peer(run, "best", "moco-v2", "files")
    yield "published moco-v2 synthetic", "throughput", lambda: peer(run, "published", "moco-v2", "synthetic")
    yield "saliency-moco files", "throughput", lambda: ours_files(run, "saliency-moco")
    yield "best saliency-moco synthetic", "throughput", lambda: peer(run, "best", "saliency-moco", "synthetic")
    yield "published saliency-moco synthetic", "throughput", lambda: peer(run, "published", "saliency-moco", "synthetic")
    small = sizes(run) if run.tiny else SMALL
    yield "small pictures", "profile", lambda: ours_synthetic(run, "saliency-moco-small", small)
    yield "moco-v2 profile", "profile", lambda: ours_profiled(run, "moco-v2")
    yield "saliency-moco profile", "profile", lambda: ours_profiled(run, "saliency-moco")
    yield "test programs", "check", lambda: tests(run)
    yield "compute-sanitizer", "check", lambda: sanitizer(run)
