"""What the store knows of damage: it shows a blocked partition to those who ask from outside."""

from collections.abc import Mapping

from worker.blocked import Blocked
from worker.session import Held
from worker.stores.port import Store


class NotedDamage:
    """Notes in the store which partitions are blocked between two takeovers. A takeover notes that none is."""

    def __init__(self, topic: str, store: Store) -> None:
        self._topic = topic
        self._store = store
        self._noted: dict[tuple[int, int], str] = {}
        """By partition and owner count."""

    async def note(self, held: Mapping[int, Held], blocked: Mapping[int, Blocked]) -> None:
        """Note what is news, as a rule nothing. Raise StoreError."""
        if not blocked and not self._noted:
            return
        reasons = {(number, held[number].owner): str(one) for number, one in blocked.items() if number in held}
        before = {(number, one.owner): self._noted.get((number, one.owner)) for number, one in held.items()}
        news = {key[0]: reasons.get(key) for key, why in before.items() if why != reasons.get(key)}
        if news:
            owners = {number: held[number].owner for number in news}
            await self._store.note_blocked(self._topic, owners, news)
        self._noted = reasons
