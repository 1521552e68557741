"""Completions come home although gateways are killed, keys change and the caller's cluster is away for a while.
`make completions` is the long form."""

from __future__ import annotations

from experiments.completions import Trouble, run
from harness.fenced import Fenced

TROUBLE = Trouble(lasts=16, lives=(1.5, 3), away_after=6, away_for=5, way="drop", seed=4)


async def test_every_operation_ends_once_with_its_own_result(fenced: Fenced) -> None:
    """Half of them through one gateway, half through two in a row, at the same time."""
    columns = await run(fenced, TROUBLE, count=60, rate=5, takes=(0.2, 8), patience=60)
    for way, column in columns.items():
        told = f"{way}: {TROUBLE}, {column.rows()}, {column.wrong()}"
        assert column.happened.kills >= 6 and column.happened.rotations == 2, told
        assert column.missing == 0, told
        assert column.right == column.handled == column.count == 60, told
