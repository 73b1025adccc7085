"""The lanes that take results to their Peers."""

import random
import time
import traceback

import structlog

from node import pipeline
from node.core.errors import Fatal, Temporary
from node.core.job import Delivery, Job, backoff_seconds
from node.core.names import AETitle
from node.dicom.outbox import Outbox
from node.dicom.scu.peer import Peer
from node.lanes.lane import AT_ONCE, IDLE_SECONDS, Lane
from node.store.deliveries import DeliveryStore

log = structlog.get_logger()


class DeliverLane(Lane):
    """SEGMENTED → DELIVERED, for one Peer."""

    def __init__(
        self,
        deliveries: DeliveryStore,
        outbox: Outbox,
        peer: Peer,
        calling_ae_title: AETitle,
        retry_first_seconds: float,
        retry_max_seconds: float,
    ) -> None:
        super().__init__(f"deliver {peer.name}")
        self._deliveries, self._outbox = deliveries, outbox
        self._peer, self._calling_ae_title = peer, calling_ae_title
        self._retry_first_seconds = retry_first_seconds
        self._retry_max_seconds = retry_max_seconds

    def step(self) -> float:
        taken = self._deliveries.take(self._peer.name, time.time())
        if taken is None:
            return IDLE_SECONDS
        self._run(*taken)
        return AT_ONCE

    def _run(self, job: Job, delivery: Delivery) -> None:
        try:
            answer = pipeline.deliver(job, self._outbox, self._peer, self._calling_ae_title)
        except Temporary as error:
            self._retry(delivery, str(error))
        except Fatal as error:
            self._settled(job, self._deliveries.failed(delivery, str(error), time.time()))
        except Exception as error:
            reason = "".join(traceback.format_exception(error))
            self._settled(job, self._deliveries.failed(delivery, reason, time.time()))
        else:
            self._settled(job, self._deliveries.delivered(delivery, answer, time.time()))

    def _retry(self, delivery: Delivery, answer: str) -> None:
        if self._stopping.is_set():
            self._deliveries.give_back(delivery)
            return
        wait = backoff_seconds(
            delivery.attempts, self._retry_first_seconds, self._retry_max_seconds, random.random()
        )
        self._deliveries.retry(delivery, time.time() + wait, answer, time.time())
        log.warning(
            "delivery will be tried again",
            job=delivery.job_id,
            peer=delivery.peer,
            answer=answer,
            in_seconds=round(wait, 1),
        )

    def _settled(self, job: Job, finished: Job | None) -> None:
        log.info("delivery settled", job=job.id, peer=self._peer.name)
        if finished is not None:
            log.info(
                f"job {finished.state}",
                job=job.id,
                series_instance_uid=job.series_instance_uids[0],
                reason=finished.reason,
            )
