"""An evaluation's scores against their definitions."""

from __future__ import annotations

import pytest
import torch

from stillhouse import rows


@pytest.mark.parametrize("function", [rows.compare, rows.compare_torch])
@pytest.mark.parametrize(("V", "Vt"), [(29, 29), (29, 32), (9000, 8999)])
def test_scores_equal_their_definitions(function, V, Vt):
    torch.manual_seed(V)
    s, t, labels = torch.randn(5, V) * 3, torch.randn(5, Vt) * 3, torch.randint(0, V - 1, (5,))
    kept = s.clone(), t.clone()
    found = function(s, t, labels)
    assert torch.equal(s, kept[0]) and torch.equal(t, kept[1])
    shared = min(V, Vt)
    for n in range(5):
        whole = torch.exp(s[n].double())
        q, p = torch.exp(s[n, :shared].double()), torch.exp(t[n, :shared].double())
        q, p = q / q.sum(), p / p.sum()
        assert found.nll_N[n].item() == pytest.approx(-torch.log(whole[labels[n]] / whole.sum()).item(), rel=1e-5)
        assert found.kl_N[n].item() == pytest.approx((p * torch.log(p / q)).sum().item(), rel=1e-4)
        assert found.accept_N[n].item() == pytest.approx(torch.minimum(p, q).sum().item(), rel=1e-5)
        assert found.conf_N[n].item() == pytest.approx((whole.max() / whole.sum()).item(), rel=1e-5)
        assert found.top_N[n].item() == max(range(V), key=lambda v: s[n, v].item())
        assert found.teacher_top_N[n].item() == max(range(Vt), key=lambda v: t[n, v].item())


def test_a_model_compared_with_itself_loses_nothing():
    logits = torch.randn(4, 500) * 5
    found = rows.compare(logits, logits + 3.0, torch.zeros(4, dtype=torch.int64))
    assert found.kl_N.abs().max() < 1e-6
    assert (found.accept_N - 1).abs().max() < 1e-5
    assert torch.equal(found.top_N, found.teacher_top_N)
