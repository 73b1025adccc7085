"""The stores of one data folder, on one database."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import Engine

from node.store.commitments import CommitmentStore
from node.store.deliveries import DeliveryStore
from node.store.jobs import JobStore
from node.store.recipients import RecipientStore
from node.store.retention import RetentionStore
from node.store.series import SeriesStore
from node.store.waiting import WaitingStore


@dataclass(frozen=True)
class Stores:
    """Each speaks of its own noun."""

    series: SeriesStore
    waiting: WaitingStore
    jobs: JobStore
    deliveries: DeliveryStore
    recipients: RecipientStore
    commitments: CommitmentStore
    retention: RetentionStore

    @classmethod
    def on(cls, engine: Engine) -> Self:
        return cls(
            SeriesStore(engine),
            WaitingStore(engine),
            JobStore(engine),
            DeliveryStore(engine),
            RecipientStore(engine),
            CommitmentStore(engine),
            RetentionStore(engine),
        )
