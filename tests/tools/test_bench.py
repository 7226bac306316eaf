# SPDX-License-Identifier: Apache-2.0
"""`burnish bench` says which sizes it measured at, and finds some that the model runs at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from burnish.testing import parse

Run = Callable[..., Any]


def test_sizes_are_found_shown_and_asked_for(burnish: Run, tmp_path: Path) -> None:
    model, few = tmp_path / "audio.onnx", ("--repeats", 2, "--loads", 2)
    text = (
        "g (float[1,N] x) => (float[1,M] y) <int64[4] pads = {0, 99, 0, 0}>"
        '{ y = Pad<mode="reflect">(x, pads) }'
    )
    ir.save(parse(text), model)
    found = burnish("bench", model, *few)
    assert found.code == 0, found.err
    assert "N=128" in found.out
    given = burnish("bench", model, *few, "--dim", "N=200", "--json")
    assert json.loads(given.out)["dims"] == {"N": 200}
    refused = burnish("bench", model, *few, "--dim", "N=50")
    assert refused.code == 2
    assert "audio.onnx does not run on random inputs" in refused.err
    assert "--dim NAME=N gives a dimension another size; there are: N" in refused.err
