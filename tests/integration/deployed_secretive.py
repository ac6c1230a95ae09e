"""Sagas whose every value and error text is a secret; each is a mark that a test then looks for everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from saga import Abort, Context, Retry, Signal, Update, current, saga, step

#: What must not be seen, by where it comes from.
CANARIES = {
    "input": "canary-of-the-input-5b1f",
    "result": "canary-of-the-result-9c2e",
    "error": "canary-of-an-error-77d0",
    "password": "canary-of-the-password-e4a8",
    "signal": "canary-of-a-signal-31ab",
    "unread": "canary-of-an-unread-signal-c07d",
    "answer": "canary-of-an-answer-8f44",
    "refusal": "canary-of-a-refusal-2d96",
    "state": "canary-of-the-state-b1e5",
    "attribute": "canary-of-an-attribute-60cc",
}

hint = Signal("hint", str)
question: Update[str, str] = Update("question", str, str)

QUICK = Retry(attempts=2, first_seconds=0.05)


@dataclass(frozen=True)
class Secret:
    """What a run is started with; `moods` says how each function ends."""

    text: str = CANARIES["input"]
    moods: Mapping[str, str] = field(default_factory=dict)


def _end(name: str, secret: Secret) -> None:
    match secret.moods.get(name), current.attempt:
        case ("once", 1) | ("always", _):
            raise RuntimeError(CANARIES["error"])
        case ("abort", _):
            raise Abort(CANARIES["error"])


@step(retry=QUICK, timeout=1)
def whisper(secret: Secret) -> dict[str, float | str]:
    _end("whisper", secret)
    nothing = float("nan") if secret.moods.get("whisper") == "unstorable" else 0.0
    return {"told": CANARIES["result"], "nothing": nothing, "more": "x" * (2 << 20) if nothing else ""}


@whisper.compensate(retry=QUICK)
def unwhisper(told: dict[str, float | str] | None, secret: Secret) -> None:
    _end("unwhisper", secret)


@whisper.probe
def overhear(secret: Secret) -> dict[str, float | str] | None:
    _end("overhear", secret)
    return None


@step(retry=QUICK, timeout=1, transactional=True)
def note(secret: Secret, told: dict[str, float | str]) -> str:
    _end("note", secret)
    return CANARIES["result"]


@saga("secretive")
def secretive(ctx: Context, secret: Secret) -> str:
    """Pass secrets on."""
    told = ctx.run(whisper, secret)
    if secret.moods.get("saga") == "bug":
        raise ValueError(CANARIES["error"])
    return ctx.run(note, secret, told)


@saga("confiding", signals=[hint, question])
def confiding(ctx: Context, name: str) -> None:
    """Show secrets, be told some, and answer with others."""
    ctx.set_attributes(mood=CANARIES["attribute"])
    ctx.set_state({"knows": CANARIES["state"]})
    ctx.wait_signal(hint)
    ctx.wait_signal(question).refuse(CANARIES["refusal"])
    ctx.wait_signal(question).answer(CANARIES["answer"])
