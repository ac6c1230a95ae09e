"""What a run waits for beside steps: signals and timers; folded from events. It decides nothing and sets no timer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from saga.core.events import Event


@dataclass(slots=True)
class Letter:
    """A signal that has arrived."""

    seq: int
    id: str | None  #: by which doubles are dropped
    value: str  #: JSON text


@dataclass(slots=True)
class Wait:
    """One occurrence of waiting: for a signal (with its name), or for a timer."""

    occurrence: str
    signal: str | None = None
    letter: Letter | None = None
    settled_seq: int | None = None
    dropped: bool = False  #: it lost a `first`


@dataclass(slots=True)
class Mailbox:
    """The signals of a run: read in the order of their arrival, by the waits in the order of theirs."""

    ids: set[str] = field(default_factory=set)
    unread: dict[str, list[Letter]] = field(default_factory=dict)
    open: dict[str, list[Wait]] = field(default_factory=dict)

    def receive(self, event: Event, name: str, value: str) -> Wait | None:
        """Take a signal; return the wait that it settles. One whose id is known already is dropped."""
        if event.key is not None:
            if event.key in self.ids:
                return None
            self.ids.add(event.key)
        letter = Letter(event.seq, event.key, value)
        waits = self.open.get(name)
        if not waits:
            self.unread.setdefault(name, []).append(letter)
            return None
        wait = waits.pop(0)
        wait.letter, wait.settled_seq = letter, event.seq
        return wait

    def wait(self, wait: Wait, seq: int) -> bool:
        """Begin to wait; True when a signal is there already."""
        assert wait.signal is not None
        unread = self.unread.get(wait.signal)
        if unread:
            wait.letter, wait.settled_seq = unread.pop(0), seq
            return True
        self.open.setdefault(wait.signal, []).append(wait)
        return False

    def drop(self, wait: Wait, seq: int) -> Wait | None:
        """Stop waiting; a signal that was there for it goes to the next wait, which is returned if it has begun."""
        assert wait.signal is not None
        letter, waits = wait.letter, self.open.get(wait.signal, [])
        if letter is None:
            waits.remove(wait)
            return None
        if waits:
            heir = waits.pop(0)
            heir.letter, heir.settled_seq = letter, seq
            return heir
        unread = self.unread.setdefault(wait.signal, [])
        unread.append(letter)
        unread.sort(key=lambda letter: letter.seq)
        return None

    def leftovers(self) -> list[str]:
        """Return what nobody has read, as payloads of arrivals, oldest first."""
        left = [(letter, name) for name, letters in self.unread.items() for letter in letters]
        return [
            f'{{"signal":{json.dumps(name)},"id":{json.dumps(letter.id)},"value":{letter.value}}}'
            for letter, name in sorted(left, key=lambda item: item[0].seq)
        ]
