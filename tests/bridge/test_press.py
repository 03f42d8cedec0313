"""The closed form of the leave-one-out error against leaving rows out."""

import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from dlink_adapter.bridge import press
from dlink_adapter.bridge.press import press_ridge


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 6, generator=draw, dtype=torch.float64)
    anchor = torch.randn(30, 4, generator=draw, dtype=torch.float64)
    noise = torch.randn(30, 4, generator=draw, dtype=torch.float64)
    return rows, rows @ torch.randn(6, 4, generator=draw, dtype=torch.float64) + 0.7 * anchor + noise, anchor


@pytest.mark.parametrize("anchored", [False, True])
def test_the_error_is_that_of_leaving_each_row_out(data, anchored):
    rows, targets, anchor = data
    found = press_ridge(rows, targets, anchor if anchored else None)
    assert (found.anchor_scale > 0.4) if anchored else (found.anchor_scale == 0)
    rest = targets - found.anchor_scale * anchor
    penalty = found.strength * rows.square().sum().item() / 6
    total = 0.0
    for out in range(30):
        kept = [row for row in range(30) if row != out]
        fit = Reference(alpha=penalty, fit_intercept=False).fit(rows[kept].numpy(), rest[kept].numpy())
        total += ((rest[out].numpy() - fit.predict(rows[[out]].numpy())[0]) ** 2).sum()
    assert found.error == pytest.approx(total / rest.numel())
    whole = Reference(alpha=penalty, fit_intercept=False).fit(rows.numpy(), rest.numpy())
    torch.testing.assert_close(found.weight, torch.from_numpy(whole.coef_.T))


def test_no_other_share_of_the_anchor_is_better(data):
    rows, targets, anchor = data
    found = press_ridge(rows, targets, anchor)
    for change in (-0.1, 0.1):
        assert press_ridge(rows, targets - (found.anchor_scale + change) * anchor).error > found.error


def test_sums_over_more_rows_than_are_left_out(data, monkeypatch):
    monkeypatch.setattr(press, "STRENGTHS", (0.1,))
    rows, targets, _ = data
    sums = rows.T @ rows, rows.T @ targets
    some, whole = press_ridge(rows[:20], targets[:20], sums=sums), press_ridge(rows, targets)
    torch.testing.assert_close(some.weight, whole.weight)
    assert some.error != whole.error
