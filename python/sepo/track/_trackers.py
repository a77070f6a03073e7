"""Experiment trackers, each by its own Python client, which is imported when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ._log import Entry


class Tracker(Protocol):
    """A run of a tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Adds numbers at an optimizer step; steps come in order."""

    def finish(self) -> None:
        """Ends the run, and waits until everything is sent."""


class _Wandb:
    def __init__(self, project: str, name: str, settings: dict[str, str]) -> None:
        import wandb

        self._run: Any = wandb.init(project=project, name=name, config=settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, project: str, name: str, settings: dict[str, str]) -> None:
        import trackio

        self._run: Any = trackio.init(project=project, name=name, config=settings, embed=False)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, project: str, name: str, settings: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric: Any = Metric
        self._client: Any = MlflowClient()
        found = self._client.get_experiment_by_name(project)
        experiment = self._client.create_experiment(project) if found is None else found.experiment_id
        self._run: str = self._client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self) -> None:
        self._client.set_terminated(self._run)


TRACKERS: dict[str, Callable[[str, str, dict[str, str]], Tracker]] = {
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _Mlflow,
}
"""By the tracker's name: opens a run of it from a project, a name, and settings to show."""


def copy(entries: Iterable[Entry], tracker: Tracker) -> int:
    """Gives `entries` to `tracker`; returns their number."""
    count = 0
    for entry in entries:
        tracker.log(entry.named(), entry.step)
        count += 1
    return count
