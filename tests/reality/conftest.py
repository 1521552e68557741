"""Fixtures: the servers live as long as the session; a test that fails shows their logs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from harness import planted
from harness.fenced import Fenced
from harness.gateway import Gateway
from harness.processes import alive, end_on_signals, stop_everything
from harness.world import LANES, Lane, World

HANG = 150
"""Seconds after which a test is taken to hang. The slowest waits for two time-outs of 10 s."""


def pytest_configure() -> None:
    planted.watching = True
    end_on_signals()


def pytest_sessionfinish() -> None:
    stop_everything()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = guarded(item.obj)


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The test, failed rather than left to hang."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(HANG):
            await test(*args, **kwargs)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    result: Any = yield
    if leaks := planted.found():
        pytest.fail("\n".join(["a gateway shows what it should not", *leaks]), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report: Any = yield
    if report.failed:
        for child in sorted(alive(), key=lambda child: child.name):
            report.sections.append((f"last lines of {child.name}", child.tail()))
    return report


@pytest_asyncio.fixture(scope="session")
async def world() -> AsyncIterator[World]:
    """All servers, workers and the gateway between them."""
    world = World()
    try:
        yield await world.start()
    finally:
        await world.stop()


@pytest.fixture(params=list(LANES))
def lane(request: pytest.FixtureRequest, world: World) -> Lane:
    """Each pair of server versions in turn."""
    return world.lanes[request.param]


@pytest.fixture
def newest(world: World) -> Lane:
    """The newest server on both sides."""
    return world.main


@pytest_asyncio.fixture(scope="session")
async def fenced() -> AsyncIterator[Fenced]:
    """Servers that know only a gateway through which completions go."""
    fenced = Fenced()
    try:
        await fenced.start()
        yield fenced
    finally:
        await fenced.stop()


@pytest.fixture(params=list(Fenced.lanes_of))
def edge(request: pytest.FixtureRequest, fenced: Fenced) -> Lane:
    """Each pair of server versions behind its fence, in turn."""
    return fenced.lanes[request.param]


@pytest.fixture
def gateways() -> Iterator[Callable[..., Gateway]]:
    """Makes gateways that a test has for itself; they are ended with it. `start` them."""
    made: list[Gateway] = []

    def make(*args: Any, **kwargs: Any) -> Gateway:
        made.append(Gateway(*args, **kwargs))
        return made[-1]

    yield make
    for gateway in made:
        gateway.stop()
