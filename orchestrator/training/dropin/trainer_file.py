"""The file by which nnU-Net finds our trainer: nnU-Net looks for trainers in a folder of its own package."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage.local import LocalStorage
from orchestrator.training.nnunet.classes import nnunet_package

TRAINER = "nnUNetTrainerOrchestrator"
_MARK = "orchestrator install-trainer"
CONTENT = f'''"""Leads nnU-Net to {TRAINER}; written, and removed with --remove, by `{_MARK}`."""


def __getattr__(name):
    if not name.startswith("{TRAINER}"):
        raise AttributeError(name)
    try:
        from orchestrator.training.dropin.trainer import dropin_trainer
    except ModuleNotFoundError as error:
        raise ImportError(f"{{name}} needs nnunet-orchestrator and what that imports, which is not installed here "
                          f"({{error}}): install it, or remove {{__file__}}") from error
    return dropin_trainer(name)
'''
"""Nothing of ours is imported before somebody asks for our trainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerFile:
    """Where the file is, or would be."""

    path: Path

    @classmethod
    def of_nnunet(cls) -> "TrainerFile":
        """Return that of the nnU-Net that this Python imports; raises ConfigError if there is none."""
        folder = nnunet_package() / "training" / "nnUNetTrainer"
        if not (folder / "nnUNetTrainer.py").is_file():
            raise ConfigError(f"{folder}: no nnUNetTrainer.py; expected the trainers of nnU-Net 2")
        # Of its own modules nnU-Net imports one after the other until one has the name: nnUNetTrainer itself is first.
        return cls(path=folder / f"{TRAINER}.py")

    @property
    def is_there(self) -> bool:
        """Whether it is as we write it."""
        return self._content() == CONTENT

    def write(self) -> bool:
        """Write the file; returns False if it was there already, and raises ConfigError for one of somebody else."""
        if self.is_there:
            return False
        self._check_ours()
        try:
            LocalStorage(str(self.path.parent)).write_bytes(self.path.name, CONTENT.encode())
        except StorageError as error:
            raise ConfigError(
                f"{error}. Without it, nnU-Net finds the trainer in folders that the variable nnUNet_extTrainer names: "
                f"copy there what {_MARK} --show prints, as {self.path.name}"
            ) from error
        return True

    def remove(self) -> bool:
        """Remove the file; returns False if it was not there, and raises ConfigError for one of somebody else."""
        self._check_ours()
        if not self.path.exists():
            return False
        LocalStorage(str(self.path.parent)).delete(self.path.name)
        return True

    def _check_ours(self) -> None:
        content = self._content()
        if content is not None and _MARK not in content:
            raise ConfigError(f"{self.path}: not written by {_MARK}; rename it, then run this again")

    def _content(self) -> str | None:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
