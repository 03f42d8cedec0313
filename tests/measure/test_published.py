"""Every row of the comparison says who measured it, and on how many clips."""

import pytest

from dlink_adapter.measure.published import PUBLISHED, Measured, comparison


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"][2:]


def test_every_row_says_who_measured_it_and_on_what():
    ours = Measured("bridge", "zero-shot", {"cider_d": 0.6543, "spider": None}, clips=957)
    table = comparison([ours])
    found = rows(table)
    assert len(found) == len(PUBLISHED) + 1
    assert ["bridge", "zero-shot", "65.4", "not run", "**measured** here", "957"] in found
    for name, *_, who, clips in found:
        assert name == "bridge" or (who.startswith("published: ") and "measured" not in who and clips == "unknown")
    assert [row[1] for row in found] == ["zero-shot"] * 3 + ["supervised"] * 5
    assert "52.5 % zero-shot" in table and "not public" in table
    assert not any("Diffusion-Link" in cell for row in found for cell in row)


def test_a_measured_row_says_on_how_many_clips():
    with pytest.raises(ValueError, match="bridge: a measured row says on how many clips, got 0"):
        Measured("bridge", "zero-shot", {"cider_d": 0.5}, clips=0)
