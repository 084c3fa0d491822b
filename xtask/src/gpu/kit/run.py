"""`run.sh`: the stages of the kit in order of worth, each step with a limit, everything kept in result.json."""

import argparse
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import accuracy
import serving
import training
import unpack
from runner import HOME, RATE, Runner, cores, figure, read

STAGES = {"train": ("check", "throughput", "profile"), "serve": ("serve",), "accuracy": ("accuracy",)}


def arguments():
    parser = argparse.ArgumentParser(prog="run.sh", description="Measures Occlude on this machine; README says what each stage shows.")
    parser.add_argument("stage", nargs="?", choices=["train", "accuracy", "serve", "all"], default="all")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for everything (default: %(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does every step run? On the CPU always")
    parser.add_argument("--again", action="store_true", help="run the steps again that went well before")
    parser.add_argument("--out", default=os.path.join(HOME, "results"), help="folder of result.json, logs and runs (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="WORDS", help="only steps with these words in their name; may be given several times")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="rows of the accuracy table (default: all)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each row, from 0 (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=None, help="accuracy runs side by side (default: 4, on the CPU 1)")
    options = parser.parse_args()
    if options.minutes <= 0 or options.seeds < 1 or (options.jobs is not None and options.jobs < 1):
        parser.error("`--minutes`, `--seeds` and `--jobs` are greater than 0")
    known = sorted({row["row"] for row in read(os.path.join(HOME, "kit", "plan.json"))["rows"]})
    for row in set(options.rows or ()) - set(known):
        parser.error(f"there is no row `{row}`; hint: the rows are {', '.join(known)}")
    options.tiny = options.tiny or options.device == "cpu"
    options.jobs = options.jobs or (4 if options.device == "cuda" else 1)
    return options


def table(run):
    """What was found, for people."""
    print(f"\n{run.result['machine']['card'] or run.result['machine']['cpu']}, torch {run.result['machine']['torch']}"
          + (", tiny sizes: speeds say nothing" if run.tiny else ""))
    for name, row in run.result["steps"].items():
        figures = row["figures"]
        rate = figure(run.result["steps"], name, *RATE)
        if rate is None:
            rate = next((value.get("images_per_second") for value in reversed(list(figures.values()))
                         if isinstance(value, dict) and "images_per_second" in value), None)
        shown = f"{rate:10.1f} images/s" if rate else " " * 19
        print(f"  {row['stage']:<10} {name:<46} {row['status']:<8}{row['seconds']:7.1f} s {shown}  {(row['reason'] or '')[:90]}")
    for goal in run.result["goals"]:
        found = f"{goal['ratio']:.2f}, {'met' if goal['met'] else 'not met'}" if goal["ratio"] else f"missing: {goal['missing'][:80]}"
        print(f"  goal: {goal['goal']}, at least {goal['at_least']}: {found}")
    print(f"\n{run.path}: `cargo xtask gpu-report` makes tables of it")


def main():
    options = arguments()
    unpack.join()
    run = Runner(options)
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    stages = sum(STAGES.values(), ()) if options.stage == "all" else STAGES[options.stage]
    # one at a time, where speeds say something; most of a tiny step is a program that starts
    width = min(4, cores()) if run.tiny and run.device == "cpu" else 1
    try:
        with ThreadPoolExecutor(width) as pool:
            steps = [pool.submit(run.step, *step) for source in (training, serving) for step in source.steps(run) if step[1] in stages]
            if "accuracy" in stages:
                steps.append(pool.submit(accuracy.all_runs, run))
            for step in steps:
                step.result()
    finally:
        run.card.stop()
        run.save()
    table(run)
    rows = [row for row in run.result["steps"].values() if row["stage"] in stages]
    return 1 if any(row["status"] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
