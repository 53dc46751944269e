"""Runs a training here, or on Ray Train with several workers; the work is the same.

A worker that is lost is replaced and all go on from the last state. A worker that meets something its user must fix
writes it down, and everybody stops.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.extras import install_command
from rvosbench.methods.steerseg.training.attributes import generate_attributes
from rvosbench.methods.steerseg.training.files import ERROR, RECIPE, STEPS, TrainingFolder
from rvosbench.methods.steerseg.training.recipe import TrainRecipe, WorkersChoice, dump_recipe

_SECONDS = 10.0
"""Between lines about the progress."""
Log = Callable[[str], None]


def folder_of(recipe: TrainRecipe) -> Path:
    """The training's folder."""
    return (recipe.runs / "training" / recipe.folder_name).resolve()


def launch(recipe: TrainRecipe, log: Log) -> None:
    """Trains in ``folder_of(recipe)``, going on where an earlier training of the same recipe stopped.

    Raises:
        PrerequisiteError: something is missing, damaged or not finite, or workers were lost too often; what was
            reached is kept.
    """
    path = folder_of(recipe)
    path.mkdir(parents=True, exist_ok=True)
    folder = TrainingFolder(path)
    folder.replace(RECIPE, dump_recipe(recipe).encode())
    (path / ERROR).unlink(missing_ok=True)
    log(f"{recipe.name}: {path}")
    generate_attributes(recipe, path, log)
    with _progress_logged(folder, log):
        if recipe.workers.executor == "inprocess":
            from rvosbench.methods.steerseg.training.train import train

            train(recipe, path)
        else:
            _on_ray(recipe, folder)


def _on_ray(recipe: TrainRecipe, folder: TrainingFolder) -> None:
    with _ray(recipe.workers):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        choice = recipe.workers
        gpu = choice.gpus_per_worker > 0
        resources = {"CPU": choice.cpus_per_worker, **({"GPU": choice.gpus_per_worker} if gpu else {})}
        trainer: Any = TorchTrainer(
            _work,
            train_loop_config={"recipe": recipe, "path": folder.path},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=choice.count, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name="ray", storage_path=str(folder.path), failure_config=FailureConfig(max_failures=choice.restarts)
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            known = folder.failure()
            if known is not None:
                raise known from error
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise PrerequisiteError(
                f"Training workers failed {choice.restarts + 1} times: {reason[:300]}.",
                "Give the command again: it goes on from the last state.",
            ) from error
    failure = folder.failure()
    if failure is not None:
        raise failure


def _work(config: dict[str, Any]) -> None:
    """What a worker runs."""
    from rvosbench.methods.steerseg.training.train import train
    from rvosbench.methods.steerseg.training.workers import DistributedGroup

    folder = TrainingFolder(config["path"])
    if folder.failure() is not None:
        # Another worker met what its user must fix; starting again would meet it again.
        return
    try:
        train(config["recipe"], folder.path, DistributedGroup())
    except PrerequisiteError as error:
        folder.fail(error)
        raise


@contextmanager
def _ray(choice: WorkersChoice) -> Iterator[None]:
    """Ray, joined or started; what was started is shut down.

    Raises:
        PrerequisiteError: not installed, no cluster at the address, or too few GPUs.
    """
    from rvosbench.harness.execute.ray_pool import RAY_ENVIRONMENT, on_loopback

    address = choice.address or os.environ.get("RAY_ADDRESS")
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with nullcontext() if address else on_loopback():
        try:
            import ray
        except ModuleNotFoundError as error:
            raise PrerequisiteError(
                "Training on Ray needs the package 'ray', which is not installed.",
                f"Install the extra ({install_command('run')}) or use --set workers.executor=inprocess.",
            ) from error
        owns = not ray.is_initialized()
        try:
            if owns and address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            elif owns:
                ray.init(
                    num_cpus=max(os.cpu_count() or 1, int(choice.count * choice.cpus_per_worker + 1)),
                    _node_ip_address="127.0.0.1",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except ConnectionError as error:
            raise PrerequisiteError(
                f"No Ray cluster answers at {address}.", "Start one (ray up ray_cluster.yaml) or unset RAY_ADDRESS."
            ) from error
    try:
        resources: Any = ray.cluster_resources
        there, requested = resources().get("GPU", 0.0), choice.count * choice.gpus_per_worker
        if requested > there:
            # Ray would wait for them for ever.
            raise PrerequisiteError(
                f"The workers need {requested:g} GPUs, the cluster has {there:g}.",
                "Lower workers.count or workers.gpus_per_worker.",
            )
        yield
    finally:
        if owns:
            ray.shutdown()


@contextmanager
def _progress_logged(folder: TrainingFolder, log: Log) -> Iterator[None]:
    """Says every few seconds how far the training is, as its files tell."""
    over = threading.Event()

    def tell() -> None:
        told = folder.lines(STEPS)[-1:]
        while not over.wait(_SECONDS):
            reached = folder.lines(STEPS)[-1:]
            if reached != told:
                [last] = told = reached
                log(f"{last['prompt']} prompt: step {last['step']} of {last['of']}, loss {last['loss']:.4f}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
