"""The files of a study, and what its data sets have said of themselves: all that it needs to be read elsewhere."""

from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.benchmark import loading
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.benchmark.study_file import StudyFile, TablesFile, named_files
from orchestrator.bundle import names
from orchestrator.configuration import load_yaml, understood
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError
from orchestrator.sources.nnunet_raw.survey import Describer

Descriptions = TypeAdapter(dict[str, RawDataset])


def study_files(request: RunRequest) -> dict[str, bytes]:
    """Return the files of a study, with what data sets have said of themselves."""
    path = request.study.path
    files = {names.STUDY: path.read_bytes()}
    files |= {names.of_study(file): path.with_name(file).read_bytes() for file in files_beside(path)}
    if described := _descriptions(path, data=request.data):
        files[names.DESCRIPTIONS] = Descriptions.dump_json(described, indent=1)
    return files


def files_beside(path: Path) -> tuple[str, ...]:
    """Return the names of the files beside a study file that belong to it and are there."""
    content = understood(load_yaml(path), StudyFile, where=str(path))
    beside = ["folds.yaml", "tables.yaml", *named_files(content)]
    tables = path.with_name("tables.yaml")
    if tables.exists():
        beside += named_files(understood(load_yaml(tables), TablesFile, where=str(tables)))
    if others := [file for file in beside if Path(file).name != file]:
        raise ConfigError(
            f"{path}: {others[0]}: not beside the study file; expected all files of a study in one folder"
        )
    return tuple(file for file in dict.fromkeys(beside) if path.with_name(file).exists())


def _descriptions(path: Path, *, data: str | None) -> dict[str, RawDataset]:
    """Return what the data sets of a study say of themselves, where the study asks for it."""
    if data is None:
        return {}
    found: dict[str, RawDataset] = {}
    ask = Describer(data)

    def recorded(folder: str) -> RawDataset:
        found[folder] = ask(folder)
        return found[folder]

    loading.load_study(path, describe=recorded)
    return found
