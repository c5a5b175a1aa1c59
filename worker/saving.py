"""Whether the store takes batches. One that answers, but does not take them, is an outage until it has taken one."""

from collections.abc import Mapping, Sequence

from worker.batch import Decoded
from worker.processor import Processor
from worker.session import Held, Session
from worker.stores.port import StoreError, StoreFencedError
from worker.telemetry.defects import in_words
from worker.telemetry.health import Health


class Saving:
    """Saves batches, and knows whether the store took the last one.

    A lock on a table, a full disk or a right that was revoked let a takeover succeed, and the ping, too.
    """

    def __init__(self, processor: Processor, health: Health) -> None:
        self._processor = processor
        self._health = health
        self._stood: dict[int, int] | None = None

    @property
    def fails(self) -> bool:
        """Return whether the store has taken no batch since it did not take one."""
        return self._stood is not None

    async def save(self, session: Session, commands: Sequence[Decoded]) -> bool:
        """Process commands of held partitions, and return whether that has ended an outage.

        Raise StoreError or SessionLostError; the session is to be given up.
        """
        began = _offsets(session.held)
        try:
            await self._processor.process(session, commands)
        except StoreFencedError:
            raise
        except StoreError as error:
            if not session.lost:  # or a rebalance has given the partitions away meanwhile
                self._stood = _offsets(session.held)  # not as it began: earlier parts may have been saved
                self._health.set_unsaved(in_words(error))
            raise
        is_over = self.fails and _offsets(session.held) != began
        if is_over:
            self.forget()
        return is_over

    def is_over(self, held: Mapping[int, Held]) -> bool:
        """Return whether nothing fails any more, as far as a takeover sees: some partition does not stand where it did.

        The batch was saved, and only the answer was lost; or somebody has set the store to another place.
        """
        stood = self._stood
        if stood is not None and any(stood.get(at, one.applied) != one.applied for at, one in held.items()):
            self.forget()
        return not self.fails

    def forget(self) -> None:
        """Begin anew, as with other partitions."""
        self._stood = None
        self._health.set_unsaved(None)


def _offsets(held: Mapping[int, Held]) -> dict[int, int]:
    return {partition: one.applied for partition, one in held.items()}
