"""Router: which replica answers a call. Ray runs it where the front is, the only one that asks.

    beginning -> hash with each replica's name -> the highest has it: a replica that comes or goes moves few beginnings
                 one that has much more to do than the idlest is passed over

Nothing of this package is imported here: Ray hands the module on as it is.
"""

from __future__ import annotations

import hashlib

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

MOST_AHEAD = 4  # calls that a replica may have more than the idlest one


class BeginningRouter(RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:  # fmt: skip
        """Each by itself, the one that should have it first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where none takes it, ask again after a while only
        call = pending_request.args[0]
        if call.turn is not None:
            named = sorted(candidate_replicas, key=_name)
            return [[named[call.turn % len(named)]]] if named else []
        order = sorted(candidate_replicas, key=lambda replica: _weight(call.beginning, replica), reverse=True)
        if order and self._load(order[0]) - min(map(self._load, order)) > MOST_AHEAD:
            order.sort(key=self._load)
        return [[replica] for replica in order]

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _name(replica: RunningReplica) -> str:
    return str(replica.replica_id.unique_id)


def _weight(beginning: str, replica: RunningReplica) -> bytes:
    return hashlib.blake2b(f"{_name(replica)} {beginning}".encode("utf-8", "replace"), digest_size=8).digest()
