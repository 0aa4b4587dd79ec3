"""Which of several processes this one is, as torchrun and Slurm say."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import ConfigError

_T = TypeVar("_T")

# Variables for index, number and local index of a process. torchrun comes first, as it may itself
# run in a Slurm job. SLURM_NTASKS would also be set in a batch script, which is no task of a step.
_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Rank:
    """A process among those that share the inputs of one command.

    Attributes:
        index: from 0.
        count: number of processes.
        local: index among the processes of its machine, from 0.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Rank":
        """The rank that torchrun or `srun` gave this process; else the only one.

        Raises:
            ConfigError: their variables are not the numbers of a rank.
        """
        for names in _VARIABLES:
            if not all(name in environment for name in names):
                continue
            values = [environment[name] for name in names]
            if all(value.isdecimal() for value in values):
                rank = cls(*map(int, values))
                if rank.index < rank.count:
                    return rank
            shown = ", ".join(f"{name}={value!r}" for name, value in zip(names, values))
            raise ConfigError(
                f"the environment variables {shown} are not those of a rank; unset them to use "
                "one process"
            )
        return cls()

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every `count`-th item, from `index` on."""
        return items[self.index :: self.count]

    def device(self, name: str | None) -> str | None:
        """The device for `--device`: of several ranks, each gets a GPU of its machine in turn."""
        if self.count == 1 or name not in (None, "cuda") or not torch.cuda.is_available():
            return name
        return f"cuda:{self.local % torch.cuda.device_count()}"
