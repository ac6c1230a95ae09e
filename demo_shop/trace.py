"""What the ledgers of some services say of one order: what stands, what is there twice, what came after its undo.

It is pure, and must not know what the engine says of the order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from demo_shop.services.catalogue import ServiceKind
from demo_shop.services.ledger import Effect, Record, Undo


@dataclass(frozen=True, slots=True)
class Trace:
    """What one ledger says of one order."""

    service: ServiceKind
    effects: tuple[Effect, ...]
    undos: tuple[Undo, ...]

    @property
    def stands(self) -> bool:
        """An effect is there that nothing undid. Of mails, that was not apologised for."""
        if not self.service.honours_keys:
            return bool(self.effects) and not self.undos
        return bool(self.standing)

    @property
    def standing(self) -> tuple[str, ...]:
        """The subjects of the effects that nothing undid, sorted."""
        undone = {undo.action_key for undo in self.undos}
        return tuple(sorted(effect.subject for effect in self.effects if effect.key not in undone))

    @property
    def doubles(self) -> int:
        """Effects beyond the first about a subject, and undos beyond the first: of an action, if there are subjects."""
        subjects = {effect.subject for effect in self.effects}
        undone = {undo.action_key for undo in self.undos} if self.service.subject else set(self.undos[:1])
        return len(self.effects) - len(subjects) + len(self.undos) - len(undone)

    @property
    def late(self) -> int:
        """Effects that landed after their undo."""
        return sum(
            any(undo.action_key == effect.key and undo.at < effect.at for undo in self.undos) for effect in self.effects
        )

    @property
    def told(self) -> str:
        """What is there, in words, by the first characters of each key."""
        keys = Counter(effect.key[:8] for effect in self.effects)
        undone = Counter(undo.key[:8] for undo in self.undos)
        return f"effects {dict(keys)}, undos {dict(undone)}"


def traces_of(ledgers: Mapping[str, Record], services: Collection[ServiceKind]) -> defaultdict[str, tuple[Trace, ...]]:
    """Return the traces of each order that a ledger knows, one a service; those of any other order are empty."""
    effects: defaultdict[tuple[str, str], list[Effect]] = defaultdict(list)
    undos: defaultdict[tuple[str, str], list[Undo]] = defaultdict(list)
    for name, record in ledgers.items():
        for effect in record.effects:
            effects[effect.order, name].append(effect)
        for undo in record.undos:
            undos[undo.order, name].append(undo)

    def traced(order: str) -> tuple[Trace, ...]:
        return tuple(
            Trace(kind, tuple(effects.get((order, kind.name), ())), tuple(undos.get((order, kind.name), ())))
            for kind in services
        )

    traces: defaultdict[str, tuple[Trace, ...]] = defaultdict(lambda: traced(""))
    for order, _ in (*effects, *undos):
        traces[order] = traced(order)
    return traces
