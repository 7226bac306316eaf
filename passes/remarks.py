# SPDX-License-Identifier: Apache-2.0
"""What should be said of lossy passes when all is done: nothing came of them, or too much.

A check whose inputs do not reach what was changed finds no difference, and looks like success.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from burnish.passes.report import PassReport

# Relative RMS change of the outputs that few tasks bear.
_LARGE = 0.1
# Reasons a remark names.
_NAMED = 2


def of_lossy(
    lossy: Collection[str],
    reports: Sequence[PassReport],
    error: float | None,
    *,
    random: bool,
    warned: bool = False,
    undefined: Collection[str] = (),
) -> Iterator[str]:
    """Yield a line for each thing that somebody who ran lossy passes should know.

    Args:
        lossy: Their pipeline texts.
        reports: Of all passes.
        error: Relative RMS difference of the outputs from the original's; None if not compared.
        random: Whether the inputs compared were random, and not calibration samples.
        warned: Whether passes have said something already; that nothing changed is then no news.
        undefined: Outputs in which the original gives NaN on the inputs compared.
    """
    ran = [report for report in reports if report.text in lossy and not report.skipped]
    places = sum(report.rewrites for report in ran)
    samples = "random inputs" if random else "the calibration samples"
    for name in sorted(undefined):
        more = ": --calib gives it samples that fit" if random else ""
        yield (
            f"the original model gives NaN in output {name!r} on {samples}, which says nothing of "
            f"the lossy passes there{more}"
        )
    if ran and not places:
        reasons = _reasons(ran)
        if reasons or not warned:
            yield f"the lossy passes changed nothing{reasons}"
    elif ran and error == 0:
        more = "; --calib gives it samples that fit" if random else ""
        yield (
            "the outputs are the same in spite of what lossy passes changed: "
            f"{samples} may not reach it{more}"
        )
    elif ran and error is not None and error > _LARGE:
        more = ", which real ones may be unlike: give --calib," if random else ": give --max-error,"
        yield (
            f"lossy passes changed the outputs by {error:.0%} (relative RMS) on {samples}{more} "
            "or measure the model at its task"
        )


def _reasons(ran: Sequence[PassReport]) -> str:
    found = Counter[str]()
    pending = list(ran)
    while pending:
        report = pending.pop()
        pending += report.members
        for rule in report.rules.values():
            found.update(rule.refusals)
    named = [f"{reason} ({count})" for reason, count in found.most_common(_NAMED)]
    return f": {'; '.join(named)}; --explain shows where" if named else ""
