"""Steps with limits, their results, and what they need: commands, memory of the card, the kit's files."""

import glob
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

HOME = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# Least seconds in which it makes sense to start a step.
LEAST = 5
# Seconds that a command has for saving what it has after SIGTERM.
GRACE = 20


class Failed(Exception):
    """A step that ran and is not well; the text says why."""


class Skipped(Exception):
    """A step that cannot run here; the text says why."""


def write(path, value):
    """Writes JSON so that the file is whole at every moment."""
    part = path + ".part"
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read(path, default=None):
    """JSON of a file; `default` where there is none, or none that can be read."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return default


def capture(words):
    """What a small command prints; nothing where it does not run."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def cores():
    return len(os.sched_getaffinity(0))


class Card:
    """The card's memory, looked at four times a second by nvidia-smi; nothing without a card."""

    def __init__(self, device):
        self.seen, self.process = [], None
        if device != "cuda":
            return
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self.query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", visible or "0"]
        try:
            self.process = subprocess.Popen([*self.query, "-lms", "250"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.seen.append((time.monotonic(), int(line)))

    def most(self, since):
        """Most MiB in use since then."""
        return max((mib for at, mib in list(self.seen) if at >= since), default=None)

    def now(self):
        """MiB in use, once what has just ended is gone."""
        if self.process is None:
            return None
        time.sleep(0.5)
        text = capture(self.query)
        return int(text) if text.isdigit() else None

    def stop(self):
        if self.process is not None:
            self.process.terminate()


def machine(device):
    """What was measured on: figures of different machines are never put together."""
    script = "import json, torch, torchvision; print(json.dumps([torch.__version__, torchvision.__version__, torch.version.cuda]))"
    torch, torchvision, cuda = json.loads(capture([sys.executable, "-c", script]) or "[null, null, null]")
    with open("/proc/cpuinfo") as file:
        cpu = next((row.split(":", 1)[1].strip() for row in file if row.startswith("model name")), platform.machine())
    found = {
        "device": device, "card": None, "driver": None, "card_memory_mib": None, "cuda": cuda, "torch": torch,
        "torchvision": torchvision, "python": platform.python_version(), "cpu": cpu, "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }
    if device == "cuda":
        row = capture(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"])
        if row:
            name, driver, memory = (word.strip() for word in row.splitlines()[0].split(","))
            found.update(card=name, driver=driver, card_memory_mib=int(float(memory)))
    return found


def nvidia_folders():
    """Folders of CUDA's libraries that came with torch."""
    script = (
        "import glob, importlib.util, os; t = importlib.util.find_spec('torch').submodule_search_locations[0]; "
        "print(':'.join([t + '/lib', *sorted(glob.glob(os.path.dirname(t) + '/nvidia/*/lib'))]))"
    )
    return capture([sys.executable, "-c", script])


def install(wheel, folder):
    """Unpacks a wheel beside nothing else: no pip, no network. Its programs have to be executable again."""
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = archive.extract(entry, part)
            mode = entry.external_attr >> 16 & 0o777
            if mode and not entry.is_dir():
                os.chmod(path, mode)
    os.rename(part, folder)


class Runner:
    """Everything that the steps share."""

    def __init__(self, options):
        self.options, self.device, self.tiny = options, options.device, options.tiny
        self.out = os.path.abspath(options.out)
        self.work = os.path.join(self.out, "work")
        self.logs, self.site = os.path.join(self.out, "logs"), os.path.join(self.out, "work", "site")
        for folder in (self.work, self.logs):
            os.makedirs(folder, exist_ok=True)
        self.deadline = time.monotonic() + 60 * options.minutes
        self.path = os.path.join(self.out, "result.json")
        self.lock, self.running, self.stopped = threading.Lock(), set(), False
        # what several steps want is made by the first of them
        self.files = threading.Lock()
        self.card = Card(self.device)
        self.libraries = nvidia_folders()
        self.result = self._open()
        self.result["calls"].append({"began": now(), "arguments": sys.argv[1:], "seconds": 0.0})
        self.began = time.monotonic()

    def _open(self):
        here = {"format": 1, "kit": read(os.path.join(HOME, "kit", "kit.json"), {}), "tiny": self.tiny, "machine": machine(self.device)}
        found = read(self.path)
        if found is not None:
            # a result is continued on the same machine, by the same kit, at the same sizes
            if all(found.get(key) == here[key] for key in ("format", "kit", "tiny", "machine")):
                return found
            aside = os.path.join(self.out, f"result-until-{time.strftime('%Y%m%d-%H%M%S')}.json")
            os.replace(self.path, aside)
            print(f"the result of another machine, kit or size is kept as `{aside}`")
        return {**here, "calls": [], "steps": {}, "goals": []}

    # -- time

    def left(self):
        return self.deadline - time.monotonic()

    def stop(self, *_):
        """Ends what runs; nothing new is started."""
        self.stopped, self.deadline = True, time.monotonic()
        for process in list(self.running):
            end(process, signal.SIGTERM)

    # -- files of the kit

    def file(self, *names):
        path = os.path.join(HOME, *names)
        if not os.path.exists(path):
            raise Skipped(f"`{os.path.join(*names)}` is not here; hint: unpack the part of the kit that has it (README)")
        return path

    def tool(self, name):
        """The words that start one of Occlude's programs, which are in the kit's wheel."""
        wheels = glob.glob(os.path.join(HOME, "occlude-*.whl"))
        if not wheels:
            raise Skipped("`occlude-*.whl` is not here; hint: unpack the first part of the kit")
        with self.files:
            if not os.path.isdir(self.site):
                install(wheels[0], self.site)
        return [sys.executable, "-m", "occlude", name.removeprefix("occlude-")]

    # -- commands

    def command(self, words, log, limit, env=None, ok=(0,)):
        """Runs a command within `limit` seconds and the time that is left; what it printed on stdout."""
        words = [str(word) for word in words]
        limit = min(limit, self.left())
        if limit <= 0:
            raise Skipped("no time is left")
        path = os.path.join(self.logs, log + ".log")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a") as file:
            print("$", *words, file=file, flush=True)
            process = self.spawn(words, file, env, subprocess.PIPE)
        parts = []
        reader = threading.Thread(target=lambda: parts.append(process.stdout.read()), daemon=True)
        reader.start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            self.finish(process)
            if self.left() <= 0:
                raise Skipped("time ran out; another call goes on") from None
            raise Failed(f"took longer than {limit:.0f} s") from None
        finally:
            self.running.discard(process)
        reader.join(5)
        text = "".join(parts)
        with open(path, "a") as file:
            file.write(text)
        if code not in ok:
            how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
            raise Failed(f"{how}: {last_line(path)}")
        return text

    def spawn(self, words, errors, env=None, output=None):
        """A process in a group of its own, which ends with this program."""
        environment = {**os.environ, **self.environment(), **(env or {})}
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output or errors, stderr=errors, text=True, errors="replace",
            env=environment, cwd=self.work, start_new_session=True,
        )
        self.running.add(process)
        return process

    def environment(self):
        path = os.pathsep.join(filter(None, [self.site, os.environ.get("PYTHONPATH")]))
        found = {"OCCLUDE_PYTHON": sys.executable, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        if self.device == "cpu":
            # threads that wait by spinning take the cores from those that they wait for
            found["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")
        runtime = os.path.join(HOME, "lib", "libonnxruntime.so")
        if os.path.exists(runtime):
            found["ORT_DYLIB_PATH"] = runtime
        return found

    def native(self):
        """For programs that come without the wrapper that finds libtorch and CUDA."""
        return {"LD_LIBRARY_PATH": ":".join(filter(None, [self.libraries, os.environ.get("LD_LIBRARY_PATH")]))}

    def finish(self, process):
        """Ends a process: politely, and then for good."""
        end(process, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            end(process, signal.SIGKILL)
            process.wait()
        self.running.discard(process)

    # -- steps

    def step(self, name, stage, work):
        """Runs a step unless it has been done or was not asked for; never raises. What it returns are its figures."""
        if self.options.only and not any(words in name for words in self.options.only):
            return
        done = self.result["steps"].get(name, {})
        if done.get("status") == "ok" and not self.options.again:
            return
        if self.stopped or self.left() < LEAST:
            if not done:
                self.keep(name, {"stage": stage, "status": "skipped", "reason": "no time is left", "seconds": 0.0, "figures": {}})
            return
        print(f"-- {stage}: {name}", flush=True)
        began, start = now(), time.monotonic()
        row = {"stage": stage, "status": "ok", "reason": None, "figures": {}}
        try:
            row["figures"] = work() or {}
        except Skipped as reason:
            row.update(status="skipped", reason=str(reason))
        except Failed as reason:
            row.update(status="failed", reason=str(reason))
            row["figures"] = getattr(reason, "figures", {})
        except Exception as error:  # one step's fault never ends the others
            row.update(status="failed", reason=f"{type(error).__name__}: {error}")
        if self.stopped and row["status"] == "failed":
            row.update(status="skipped", reason="stopped from outside")
        row.update(seconds=round(time.monotonic() - start, 2), began=began, card_mib=self.card.most(start))
        reason = f" ({row['reason']})" if row["reason"] else ""
        print(f"   {name}: {row['status']}{reason}, {row['seconds']:.1f} s", flush=True)
        # a step that could not run takes nothing away from one that did
        if not (row["status"] == "skipped" and done.get("status") == "ok"):
            self.keep(name, row)

    def keep(self, name, row):
        with self.lock:
            self.result["steps"][name] = row
            self.save()

    def save(self):
        self.result["calls"][-1]["seconds"] = round(time.monotonic() - self.began, 1)
        self.result["goals"] = goals(self.result["steps"])
        write(self.path, self.result)

    def figure(self, step, *keys):
        return figure(self.result["steps"], step, *keys)


def figure(steps, step, *keys):
    """A figure of a step that went well, or nothing."""
    row = steps.get(step, {})
    value = row.get("figures") if row.get("status") == "ok" else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# What is hoped for: name, least ratio, the step above the line, the step (and figure) below it.
RATE = ("images_per_second",)
GOALS = [
    ("moco-v2, synthetic input, beside the published pipeline", 5.0, "moco-v2 synthetic", "published moco-v2 synthetic", RATE),
    ("moco-v2, synthetic input, beside the best PyTorch", 1.2, "moco-v2 synthetic", "best moco-v2 synthetic", RATE),
    ("moco-v2, synthetic input, one group of normalisation each, beside the best PyTorch", 1.2, "moco-v2 synthetic, one group", "best moco-v2 synthetic", RATE),
    ("moco-v2, synthetic input, beside the card's floor", 0.7, "moco-v2 synthetic", "rates", ("floor", "moco-v2")),
    ("moco-v2, from JPEG files, beside the published pipeline", 5.0, "moco-v2 files", "published moco-v2 files", RATE),
    ("moco-v2, from JPEG files, beside the best PyTorch", 1.2, "moco-v2 files", "best moco-v2 files", RATE),
    ("saliency-moco, synthetic input, beside the published pipeline", 5.0, "saliency-moco synthetic", "published saliency-moco synthetic", RATE),
    ("saliency-moco, synthetic input, beside the best PyTorch", 1.2, "saliency-moco synthetic", "best saliency-moco synthetic", RATE),
    ("saliency-moco, synthetic input, beside the card's floor", 0.7, "saliency-moco synthetic", "rates", ("floor", "saliency-moco")),
    ("fp16 served to 128 clients, beside ONNX Runtime alone", 0.9, "serve fp16", "alone fp16", RATE),
]


def goals(steps):
    """Every goal with its ratio, or with what is missing for it."""
    found = []
    for name, least, ours, peer, keys in GOALS:
        above = figure(steps, ours, *(("128 clients", *RATE) if ours.startswith("serve") else RATE))
        below = figure(steps, peer, *keys)
        missing = [f"`{step}` was not run" if step not in steps else f"`{step}`: {steps[step]['reason'] or 'no figure'}"
                   for step, value in ((ours, above), (peer, below)) if not value]
        row = {"goal": name, "at_least": least, "ratio": None, "met": None, "missing": "; ".join(missing) or None}
        if not missing:
            row.update(ratio=round(above / below, 3), met=above / below >= least)
        found.append(row)
    return found


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def end(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def last_line(path):
    """The last line of a log that says something: an error's, where there is one."""
    with open(path, errors="replace") as file:
        rows = [row.strip() for row in file.read().replace("\r", "\n").splitlines() if row.strip()]
    said = [row for row in rows if row.startswith("error:") or "Error: " in row] or rows
    return said[-1][:300] if said else ""
