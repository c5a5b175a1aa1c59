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

    async def save(self, session: Session, commands: Sequence[Decoded]) -> None:
        """Process commands of held partitions. Raise StoreError or SessionLostError; the session is to be given up."""
        stood = {partition: held.applied for partition, held in session.held.items()}
        try:
            await self._processor.process(session, commands)
        except StoreFencedError:
            raise
        except StoreError as error:
            self._stood = stood
            self._health.set_unsaved(in_words(error))
            raise

    def is_over(self, held: Mapping[int, Held]) -> bool:
        """Return whether nothing fails any more: some partition is further than it was when a batch was not taken.

        That may be seen by a takeover, too: the batch was saved, and only the answer was lost.
        """
        stood = self._stood
        if stood is not None and any(one.applied > stood.get(at, one.applied) for at, one in held.items()):
            self.forget()
        return not self.fails

    def forget(self) -> None:
        """Begin anew, as with other partitions."""
        self._stood = None
        self._health.set_unsaved(None)
