"""The report of a whole study: how long it takes and how large it is, on drawn scores.

    python -m bench.report [--output FOLDER] [--rows N]

All 110 trainings of the shipped study have scores, those of further cases with them until there are 10,000 rows; the
page and the files beside it are written as at the end of a run.
"""

import sys
import tempfile
import time
from pathlib import Path

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions, resident_gib
from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.benchmark.tables import load_tables
from orchestrator.report.reported import Reported
from orchestrator.report.write import write_report
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage


def main() -> int:
    """Run the benchmark."""
    parser = command_line("report", description=__doc__)
    parser.add_argument("--output", type=Path, help="keep the page there")
    parser.add_argument("--rows", type=positive_integer, default=10_000, help="at least so many scores")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        storage = open_storage(str(folder))
        study = load_study()
        trainings = study.trainings(matrix="all", preset=find_preset("paper"))
        for training_id, rows in all_drawn_rows(trainings, study=study, least_rows=options.rows).items():
            ResultsStore(storage).commit(training_id, rows)
        started_s, cpu_started_s = time.perf_counter(), time.process_time()
        table = ResultsStore(storage).read()
        read_s = time.perf_counter() - started_s
        reported = Reported(study=study, trainings=trainings, table=table, layout=load_tables(study))
        key = write_report(storage, reported=reported, failures={})
        elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
        size_mb = (folder / key).stat().st_size / 1e6
        peak_mib = resident_gib(most=True) * 1024
    print(conditions())
    print(
        f"{len(trainings)} trainings, {table.num_rows} rows: {elapsed_s:.1f} s ({read_s:.1f} s of them to read the "
        f"rows; {cpu_s:.1f} s of CPU time), page {size_mb:.1f} MB, {peak_mib:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
