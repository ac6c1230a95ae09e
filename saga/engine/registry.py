"""Every step and saga that was declared in this process, and what an application makes of them when it finalises."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

from saga.core.definition import AnyStep, SagaDefinition, place_of
from saga.core.errors import DefinitionError, UnknownSaga
from saga.core.events import EventKind
from saga.core.lifecycle import Cause, StallReason
from saga.engine.codec import JsonCodec

_steps: list[AnyStep] = []
_sagas: list[SagaDefinition] = []
_listeners: list[Callable[[], None]] = []


def declare_step(step: AnyStep) -> None:
    """Remember a step; applications that are finalised already take it at once, as `shared_task` does."""
    _steps.append(step)
    _tell()


def declare_saga(saga: SagaDefinition) -> None:
    """Remember a saga."""
    _sagas.append(saga)
    _tell()


def step_named(name: str) -> AnyStep:
    """Return the step declared last under a name.

    Raises:
        DefinitionError: there is none.
    """
    for step in reversed(_steps):
        if name in (step.name, *step.aliases):
            return step
    raise DefinitionError(f"no step {name!r} was declared in this process")


def is_companion(function: Callable[..., object]) -> bool:
    """Say whether a function is the compensation or the probe of a step."""
    return any(function in (step.compensation, step.probe_function) for step in _steps)


def saga_named(name: str, version: int) -> SagaDefinition | None:
    """Return the saga declared last under a name and version, or None."""
    return next((saga for saga in reversed(_sagas) if (saga.name, saga.version) == (name, version)), None)


def listen(listener: Callable[[], None]) -> None:
    """Call back at every later declaration."""
    _listeners.append(listener)


def _tell() -> None:
    for listener in _listeners:
        listener()


class Definitions:
    """The checked definitions of an application, by name."""

    def __init__(self, codec: JsonCodec) -> None:
        self.codec = codec
        self.steps: dict[str, AnyStep] = {}
        self.sagas: dict[tuple[str, int], SagaDefinition] = {}
        self._build: str | None = None

    def refresh(self) -> None:
        """Take in everything that was declared so far.

        Raises:
            DefinitionError: two share a name, or one cannot work; the message names the places.
        """
        for step in _steps:
            for name in (step.name, *step.aliases):
                known = self.steps.get(name)
                if known is step:
                    continue
                if known is not None and place_of(known.function) != place_of(step.function):
                    raise DefinitionError(
                        f"two steps are named {name!r}: {place_of(known.function)} and {place_of(step.function)}; "
                        "give one of them name="
                    )
                self.codec.step(step)
                self.steps[name] = step
        for saga in _sagas:
            key = (saga.name, saga.version)
            other = self.sagas.get(key)
            if other is saga:
                continue
            if other is not None and place_of(other.function) != place_of(saga.function):
                raise DefinitionError(
                    f"two sagas are named {saga.name!r} version {saga.version}: {place_of(other.function)} and "
                    f"{place_of(saga.function)}; give one of them another name or version"
                )
            self.codec.saga(saga)
            self.sagas[key] = saga
            self._build = None

    def saga(self, name: str, version: int | None = None) -> SagaDefinition:
        """Return a saga; without a version, its newest.

        Raises:
            UnknownSaga: there is none; the message lists what there is.
        """
        versions = [saga for (known, _), saga in self.sagas.items() if known == name]
        for saga in sorted(versions, key=lambda saga: -saga.version):
            if version is None or saga.version == version:
                return saga
        known = ", ".join(f"{n} version {v}" for n, v in sorted(self.sagas)) or "none"
        wanted = name if version is None else f"{name} version {version}"
        raise UnknownSaga(f"no saga {wanted!r} is defined in this application; defined: {known}")

    def find(self, name: str, version: int) -> SagaDefinition | None:
        """Return a saga of exactly this version, or None."""
        return self.sagas.get((name, version))

    @property
    def build(self) -> str:
        """A digest of the code: coordinators of another build retry what this one could not replay."""
        if self._build is None:
            self._build = _digest([*self.sagas.values(), *self.steps.values()])
        return self._build


def _digest(definitions: Iterable[SagaDefinition | AnyStep]) -> str:
    """Hash the files that sagas and steps are written in, so that a mended helper beside them counts as other code.

    What a log can say counts, too: code that knows more of it can go on with runs that other code had to leave.
    """
    files = {inspect.unwrap(definition.function).__code__.co_filename for definition in definitions}
    digest = hashlib.sha256(" ".join([*EventKind, *StallReason, *Cause]).encode())
    for file in sorted(files):
        path = Path(file)
        digest.update(path.read_bytes() if path.is_file() else file.encode())
    return digest.hexdigest()[:12]
