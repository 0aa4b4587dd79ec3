"""Evaluates trained weights: the evaluation of `mvit-det train`, without training."""

from collections.abc import Sequence

from . import train


def main(arguments: Sequence[str], prog: str) -> int:
    """Runs the command and returns its exit code."""
    return train.main(arguments, prog, evaluate_only=True)
