"""A gateway that parks, and operations that go through it to a cluster that can be taken away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from .caller import Outcome, Plan, begin, events
from .cluster import Endpoint
from .fenced import Fenced, RelayingGateway
from .http import Metrics
from .relay import Relay
from .world import HANDLER_QUEUE, Pair, Site

TOKEN = "ngw1."
"""How a token begins that the gateway made."""

RETRY = "retry: { attempts: 2, backoff: { initial: 50ms, max: 500ms }, on: [connect, unavailable, reset] }"
BREAKER = "breaker: { failure_rate: 50%, min_requests: 10, window: 10s, open_for: 1s, per: operation }"

POLICIES = f"""
policies:
  - park: on
    {RETRY}
"""


async def until(condition: Callable[[], Any]) -> None:
    """Waits for something that can be asked at once."""
    while not condition():
        await asyncio.sleep(0.02)


class ParkingGateway(RelayingGateway):
    """A gateway with policies that park."""

    def __init__(
        self,
        clusters: Mapping[str, str],
        port: int | None = None,
        policies: str = POLICIES,
        store: str = "",
        beside: RelayingGateway | None = None,
    ) -> None:
        """`store`: the URL of a database; a file in the state folder unless given. `beside`: see `RelayingGateway`."""
        where = f"park: {{ store: '{store}' }}\n" if store else ""
        super().__init__(clusters, port, f"{where}{policies}", beside)

    def files(self) -> list[Path]:
        """What is kept of parked operations on disk."""
        return sorted(self.state.rglob("parked.db*"))

    def rows(self, endpoint: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """What the admin port lists of an endpoint, or of all."""
        answer = self.get(f"/parked?limit={limit}" + (f"&endpoint={endpoint}" if endpoint else ""))
        if answer.status != 200:
            raise RuntimeError(f"/parked: {answer}")
        listed = answer.json()
        return list(listed["parked"] if isinstance(listed, dict) else listed)

    async def read(self) -> Metrics:
        return await asyncio.to_thread(self.metrics)

    async def until_metric(self, name: str, condition: Callable[[float], bool], **labels: str) -> None:
        """Waits until the sum over what carries these labels is as wanted."""
        while not condition((await self.read()).sum(f"nexus_gateway_{name}", **labels)):
            await asyncio.sleep(0.1)

    async def until_ended(self, end: str, count: int = 1) -> None:
        """Waits until so many operations have ended so, and no more."""
        await self.until_metric("unparked_total", lambda value: value >= count, end=end)
        assert (await self.read()).sum("nexus_gateway_unparked_total", end=end) == count

    async def until_parked(self, count: int, **labels: str) -> None:
        """Waits until exactly so many operations are parked."""
        await self.until_metric("parked", lambda value: value == count, **labels)


def parking_rows(metrics: Metrics) -> dict[str, str]:
    """What became of parked operations, for a table."""

    def by(name: str, label: str) -> str:
        found: dict[str, float] = {}
        for labels, value in metrics.rows(f"nexus_gateway_{name}"):
            if value:
                kind = labels.get(label, "")
                found[kind] = found.get(kind, 0) + value
        return ", ".join(f"{n:.0f} {kind}" for kind, n in sorted(found.items())) or "0"

    return {
        "parked": by("parked_total", "reason"),
        "  how that ended": by("unparked_total", "end"),
        "  not parked": by("park_refused_total", "why"),
        "  still parked": by("parked", "state"),
    }


class Parking:
    """A caller's cluster, a handler's cluster behind a relay, a gateway that parks, and an endpoint through all."""

    def __init__(
        self, fenced: Fenced, caller: str = "caller", handler: str = "handler", policies: str = POLICIES, spare: int = 0
    ) -> None:
        """`spare`: which of the ports that the clusters may send completions to is the gateway's."""
        self.caller: Site = fenced.sites[caller]
        self.handler: Site = fenced.sites[handler]
        self.relay = Relay(self.handler.cluster)
        self.gateway = ParkingGateway({self.handler.cluster.name: self.relay.url}, fenced.spare[spare], policies)
        self.pair: Pair
        self._handles: list[WorkflowHandle[Any, Outcome]] = []
        self._exit = AsyncExitStack()

    async def start(self, name: str, task_queue: str = HANDLER_QUEUE) -> Parking:
        """`name` is the endpoint's. The gateway starts when its cluster knows that: it needs not be asked again."""
        target = await self.handler.cluster.create_worker_endpoint(name, task_queue)
        self._exit.callback(self.relay.stop)
        await asyncio.to_thread(self.relay.start)
        self._exit.callback(self.gateway.stop)
        await asyncio.to_thread(self.gateway.start)
        self.pair = await self._pair(target)
        return self

    async def _pair(self, target: Endpoint) -> Pair:
        via, direct = f"via-{target.name}", f"direct-{target.name}"
        await self.caller.cluster.create_external_endpoint(via, self.gateway.target_url(target.name))
        await self.caller.cluster.create_external_endpoint(direct, self.handler.cluster.direct_url(target))
        return Pair(via, direct, target)

    async def stop(self) -> None:
        """Ends everything, operations that were left included: the clusters go on to serve other tests."""
        for handle in self._handles:
            with contextlib.suppress(RPCError):  # most have ended
                await handle.terminate()
        await asyncio.to_thread(self.relay.heal)
        await self._exit.aclose()

    # --- the target ---

    async def down(self, way: str = "refuse") -> None:
        await asyncio.to_thread(self.relay.take_away, way)

    async def up(self) -> None:
        await asyncio.to_thread(self.relay.heal)

    # --- operations ---

    async def begin(self, operation: str, input: Any = None, **plan: Any) -> WorkflowHandle[Any, Outcome]:
        """Runs one operation through the gateway."""
        handle = await begin(self.caller.client, Plan(self.pair.via, operation, input, **plan))
        self._handles.append(handle)
        return handle

    async def park(self, operation: str, input: Any = None, **plan: Any) -> WorkflowHandle[Any, Outcome]:
        """The same, and waits until its caller was told that it runs. Something has to keep it from running."""
        handle = await self.begin(operation, input, **plan)
        token = token_of(await self.started(handle))
        assert token.startswith(TOKEN), token
        return handle

    async def started(self, handle: WorkflowHandle[Any, Outcome]) -> HistoryEvent:
        """The event by which the caller knows that its operation runs."""
        while not (found := await events(handle, "started")):
            await asyncio.sleep(0.05)
        return found[0]

    async def request_id(self, handle: WorkflowHandle[Any, Outcome]) -> str:
        [event] = await events(handle, "scheduled")
        return str(event.nexus_operation_scheduled_event_attributes.request_id)

    async def asked(self, handle: WorkflowHandle[Any, Outcome]) -> int:
        """How often the start of the operation has reached the handler."""
        return self.handler.journal.tries(await self.request_id(handle))


def token_of(event: HistoryEvent) -> str:
    """The operation's token in the event of its start; servers before 1.30 may call it the operation's id."""
    attributes = event.nexus_operation_started_event_attributes
    return str(attributes.operation_token or attributes.operation_id)
