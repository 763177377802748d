"""One notebook, run headlessly by papermill in a kernel of this interpreter, with a record of all that determined it."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib.desk.fence import fence
from lib.desk.fresh import digest_if_there, fingerprint, libraries, quality_of, record_of, written
from lib.desk.report import timing
from lib.ground.cache import file_digest, save_json
from lib.ground.paths import ROOT, reports


def execute(notebook: Path, given: dict, size: str) -> bool:
    """Run one notebook in a kernel of this interpreter; False (and one line) if a cell fails."""
    record = record_of(notebook, size)
    done, failed = record.with_suffix(".ipynb"), record.with_suffix(".failed.ipynb")
    partial, reads = record.with_suffix(".partial.ipynb"), record.with_suffix(".reads")
    record.parent.mkdir(parents=True, exist_ok=True)
    for old in (record, failed, reads, *reports(size).rglob(".*.partial")):  # left by a run killed while writing
        old.unlink(missing_ok=True)
    made_by, before, started = fingerprint(notebook, given, size), written(size), time.monotonic()
    fence()
    os.environ["STUDY_READS"] = str(reads)  # report.noted lists what the notebook reads in it
    import papermill  # only now: it reads the environment

    try:
        papermill.execute_notebook(
            str(notebook), str(partial), {"size": size, **given},
            kernel_name="python3", language="python", cwd=str(ROOT), progress_bar=False, log_output=False,
            extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
    except Exception as error:
        if partial.exists():
            os.replace(partial, failed)
        reads.unlink(missing_ok=True)
        print(f"run: {notebook.stem} failed {describe(error)}", file=sys.stderr)
        return False
    seconds = time.monotonic() - started
    os.replace(partial, done)
    outputs = [name for name, when in written(size).items() if before.get(name) != when]
    timing(notebook.stem, size, seconds, machine())  # before the record: a run killed in between is repeated
    inputs = {os.path.relpath(name, ROOT) for name in reads.read_text("utf-8").splitlines()} if reads.exists() else ()
    reads.unlink(missing_ok=True)
    save_json(record, {
        "fingerprint": made_by,
        "libraries": libraries(),
        "inputs": {name: digest_if_there(ROOT / name) for name in inputs},
        "outputs": {name: file_digest(reports(size) / name) for name in outputs},
        "quality": quality_of(notebook, size),
        "executed": file_digest(done),
    })  # fmt: skip
    print(f"done {notebook.stem} in {seconds / 60:.1f} min", flush=True)
    return True


def describe(error: Exception) -> str:
    """Which cell failed and why, in one line."""
    kind = getattr(error, "ename", type(error).__name__)
    where = f"in cell [{error.exec_count}]: {kind}" if hasattr(error, "exec_count") else kind
    lines = str(getattr(error, "evalue", error)).strip().splitlines() or [""]
    return f"{where}: {lines[0]}"


def machine() -> dict:
    """The machine on which the time was measured."""
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = ", ".join(subprocess.run(query, capture_output=True, text=True).stdout.splitlines()) or None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}
