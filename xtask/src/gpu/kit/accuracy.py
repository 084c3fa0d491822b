"""The runs of the accuracy table (`kit/plan.json`, which `cargo xtask gpu-kit` writes from the arms of `cargo xtask accuracy --set methods`),
several side by side. A run that is cut short goes on with the next call."""

import glob
import json
import os
import threading

from runner import HOME, Failed, Skipped, read


def datasets(run):
    """Folders of the kit with `train` and `test`."""
    return sorted(folder for folder in glob.glob(os.path.join(HOME, "data", "*"))
                  if all(os.path.isdir(os.path.join(folder, part)) for part in ("train", "test")))


def jobs(run):
    """(name, data set, row of the plan, seed), in order: both seeds of everything at one size before the next size."""
    plan = read(os.path.join(HOME, "kit", "plan.json"))
    rows = plan["tiny" if run.tiny else "rows"]
    sizes = sorted({row["size"] for row in rows})
    for size in sizes:
        for seed in range(1 if run.tiny else run.options.seeds):
            for data in datasets(run):
                for row in rows:
                    chosen = not run.options.rows or row["row"] in run.options.rows
                    if row["size"] == size and chosen:
                        yield f"{os.path.basename(data)} {size} px, {row['row']}, seed {seed}", data, row, seed


def train(run, name, data, row, seed):
    """Trains, as far as that has not been done, and measures."""
    shape = read(os.path.join(HOME, "kit", "plan.json"))
    folder = os.path.join(run.out, "runs", name.replace(", ", "-").replace(" ", "-"))
    os.makedirs(folder, exist_ok=True)
    train, test = os.path.join(data, "train"), os.path.join(data, "test")
    epochs = row["epochs"]
    last = os.path.join(folder, f"checkpoint_{epochs - 1:04}.safetensors")
    common = ["--device", run.device, *(["--threads", "1", "--workers", "1"] if run.device == "cpu" else [])]
    log = os.path.join("accuracy", os.path.basename(folder))
    tool = run.tool("occlude-train")
    if not os.path.exists(last):
        words = [*tool, "pretrain", train, "--out", folder, *row["flags"], "--arch", shape["arch"], "--image-size", row["size"],
                 "--batch-size", row["batch"], "--epochs", epochs, "--seed", seed, "--on-collapse", "warn", *common]
        if os.path.exists(os.path.join(folder, "last")):
            words.append("--resume")
        run.command(words, log, 3600)
    found = {"row": row["row"], "about": row["about"], "data": os.path.basename(data), "size": row["size"], "epochs": epochs,
             "batch": row["batch"], "arch": shape["arch"], "seed": seed, "flags": " ".join(row["flags"])}
    floors = [] if seed == 0 and row["floors"] else ["--no-floors"]
    found["knn"] = json.loads(run.command([*tool, "knn", last, train, test, "--json", *floors, *common], log, 900))["results"]
    linear = [*tool, "linear", last, train, test, "--views", "cached", "--lr", "auto", "--json", *common]
    if run.tiny:
        linear += ["--epochs", "1"]
    found["linear"] = {key: value for key, value in json.loads(run.command(linear, log, 1800)).items() if key in ("top1", "mean_per_class")}
    return found


def all_runs(run):
    """Every run that has not ended, `--jobs` at a time."""
    if not datasets(run):
        def none():
            raise Skipped("the kit has no data set with `train` and `test`; hint: `cargo xtask gpu-kit --data DIR`")
        run.step("accuracy", "accuracy", none)
        return
    queue, lock = iter(list(jobs(run))), threading.Lock()

    def worker():
        while True:
            with lock:
                job = next(queue, None)
            if job is None:
                return
            run.step(f"accuracy: {job[0]}", "accuracy", lambda: train(run, *job))

    workers = [threading.Thread(target=worker) for _ in range(run.options.jobs)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
