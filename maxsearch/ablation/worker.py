"""One job in a process of its own: its memory is given back, and its crash ends no other run.

python -m maxsearch.ablation.worker FOLDER

reads FOLDER/job.json, trains or goes on, evaluates, and writes FOLDER/figures.json. When its standard input ends, be it
because the process that began it closes it or has died, training saves a checkpoint and ends.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from maxsearch.ablation.jobs import FIGURES, JOB, REMEDY, RUN
from maxsearch.config import Config
from maxsearch.errors import MaxsearchError
from maxsearch.evaluation.options import EvaluateOptions
from maxsearch.files import read_json, write_json
from maxsearch.progress import Progress


def run_job(folder: Path) -> None:
    """Trains, evaluates, and writes the figures.

    Raises:
      MaxsearchError: either failed, or a signal ended training early.
    """
    from maxsearch.cpu import settle_memory
    from maxsearch.encode import Encoder
    from maxsearch.evaluation.evaluate import evaluate
    from maxsearch.training.loop import train

    settle_memory()
    job: dict[str, Any] = read_json(folder / JOB, what="job of a run", remedy=REMEDY)
    ranked_on: dict[str, Any] = {name: Path(value) for name, value in job["paths"].items() if name != "data"}
    ranked_on |= job["evaluation"]["options"]
    ranked_on["columns"] = {  # JSON has no tuples
        field: tuple(column) if isinstance(column, list) else column for field, column in ranked_on["columns"].items()
    }
    trained = train(Config.from_json(job["config"], where=str(folder / JOB)), job["paths"]["data"], folder / RUN)
    if trained.stopped:
        raise MaxsearchError(f"training was stopped at step {trained.step}; its checkpoint is saved")
    evaluation = evaluate(EvaluateOptions(**ranked_on), Encoder.from_run(folder / RUN), Progress())
    figures = evaluation.to_json(per_query=True)
    write_json(folder / FIGURES, figures | {"training": {"steps": trained.step, "seconds": trained.seconds}})


def end_with_input() -> None:
    """Ends this process as a signal would once its standard input ends."""

    def wait() -> None:
        os.read(0, 1)  # without the lock of sys.stdin, which Python wants when it ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: Path) -> int:
    """Runs the job; the exit code."""
    end_with_input()
    try:
        run_job(folder)
    except MaxsearchError as error:
        print(f"maxsearch: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
