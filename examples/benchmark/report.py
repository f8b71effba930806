"""The results as a table, as JSON and as a chart."""

import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from .cases import Case, LanguageModelCase, TextCase

# A case, and "seconds", "repetitions", "parameters", "peak_mib" and "faults" of its sides.
Result = Tuple[Case, Dict]
SIDES = ("plain", "transformer", "fused")  # beside ours
SPEED = {
    "plain": "× plain",
    "transformer": "× transformer, equal parameters",
    "fused": "× fused, equal parameters",
    "floor": "times the floor",
}
MEMORY = {f"{side} memory": f"of {side}'s" for side in SIDES}
AT_MOST = {"floor", *MEMORY}  # whose goals are upper bounds
GROWTH_GOAL = 1.1  # cost of a token at the longest context over that at the shortest


def write_report(out: Path, machine: Dict, results: List[Result]) -> str:
    """Writes results.json, results.md and chart.png to the folder; returns the text."""
    out.mkdir(parents=True, exist_ok=True)
    growth = generation_growth(results)
    cases = [
        {"name": c.name, "title": c.title, "goals": c.goals, "ratios": ratios(r), **r}
        for c, r in results
    ]
    content = {"machine": machine, "cases": cases, "generation_growth": growth}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    parts = [_machine(machine), time_table(results), memory_table(results), text_table(results)]
    parts += [_growth(growth), _parameters(results)]
    text = "\n\n".join(filter(None, parts)) + "\n"
    (out / "results.md").write_text(text)
    return text + "\n" + _chart(out / "chart.png", results)


def ratios(result: Dict) -> Dict[str, float]:
    """How many times as fast as other sides; the time over the floor; the memory over that of
    others. Of sides that could be compared alone."""
    seconds, memory = result["seconds"], result["peak_mib"]
    found = {}
    for side in SIDES:
        if side in seconds and side not in result["faults"]:
            found[side] = seconds[side] / seconds["ours"]
            if memory[side]:
                found[f"{side} memory"] = memory["ours"] / memory[side]
    if "floor" in seconds:
        found["floor"] = seconds["ours"] / seconds["floor"]
    return found


def met(kind: str, ratio: float, goal: float) -> bool:
    return ratio <= goal if kind in AT_MOST else ratio >= goal


def generation_growth(results: List[Result]) -> Optional[Dict[str, float]]:
    """Each side's cost of a token at the longest context over that at the shortest."""
    found = [r["seconds"] for c, r in results if c.name.startswith("generation-")]
    if len(found) < 2:
        return None
    return {side: found[-1][side] / found[0][side] for side in found[0]}


# --- text -----------------------------------------------------------------------------------------


def time_table(results: List[Result]) -> str:
    """Markdown: times, and ratios beside their goals."""
    sides = "ours", *SIDES, "floor"
    return _table(
        ("measure", *sides, *SPEED.values()),
        [
            (
                case.title,
                *(_time(result["seconds"].get(side)) for side in sides),
                *_ratios(SPEED, case, result),
            )
            for case, result in results
        ],
    )


def memory_table(results: List[Result]) -> str:
    """Markdown: peak memory, and ratios beside their goals."""
    sides = "ours", *SIDES
    return _table(
        ("peak memory, MiB", *sides, *MEMORY.values()),
        [
            (
                case.title,
                *(_mib(result["peak_mib"][side]) if side in case.sides else "" for side in sides),
                *_ratios(MEMORY, case, result),
            )
            for case, result in results
        ],
    )


def text_table(results: List[Result]) -> str:
    """Markdown: training steps a second, as the paper compares models of long texts."""
    found = [(case, result) for case, result in results if isinstance(case, TextCase)]
    if not found:
        return ""
    sides = "ours", *SIDES
    return _table(
        ("steps a second", *sides),
        [(c.title, *(f"{1 / r['seconds'][side]:.3g}" for side in sides)) for c, r in found],
    )


def _table(head: Sequence[str], rows: List[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _ratios(kinds: Dict[str, str], case: Case, result: Dict) -> List[str]:
    """A row's cells: each ratio, or why it may not be told."""
    found, faults = ratios(result), result["faults"]
    return [
        faults.get(kind.removesuffix(" memory"))
        or _ratio(kind, found.get(kind), case.goals.get(kind))
        for kind in kinds
    ]


def _time(seconds: Optional[float]) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _mib(mib: Optional[float]) -> str:
    return "?" if mib is None else f"{mib:.0f}"


def _ratio(kind: str, ratio: Optional[float], goal: Optional[float]) -> str:
    if ratio is None:
        return ""
    if goal is None:
        return f"{ratio:.2f}"
    sign = "≤" if kind in AT_MOST else "≥"
    return f"**{ratio:.2f}** (goal {sign} {goal:.3g}{'' if met(kind, ratio, goal) else ': missed'})"


def _machine(machine: Dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _growth(growth: Optional[Dict[str, float]]) -> str:
    if growth is None:
        return ""
    missed = "" if growth["ours"] <= GROWTH_GOAL else ": missed"
    others = ", ".join(f"{side} {value:.2f}" for side, value in growth.items() if side != "ours")
    return (
        "Cost of a token at the longest context over that at the shortest: "
        f"ours **{growth['ours']:.2f}** (goal ≤ {GROWTH_GOAL}{missed}), {others}."
    )


def _parameters(results: List[Result]) -> str:
    models = [(c.title, r["parameters"]) for c, r in results if "fused" in c.sides]
    return "\n".join(
        f"Parameters, {title}: ours {p['ours']:,}, transformer {p['transformer']:,} "
        f"({p['transformer'] / p['ours'] - 1:+.1%})."
        for title, p in models
    )


# --- chart ----------------------------------------------------------------------------------------


def _chart(path: Path, results: List[Result]) -> str:
    """Speed and memory of the language model's training step against its length."""
    steps = [(c.length, c.sides, r) for c, r in results if isinstance(c, LanguageModelCase)]
    if not steps:
        return "No chart: it shows the language model's training step, which was not measured."
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "No chart: matplotlib is not installed."
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    lengths = [length for length, _, _ in steps]
    for side in steps[0][1]:
        tokens = [length / r["seconds"][side] for length, _, r in steps]
        speed.plot(lengths, tokens, marker="o", label=side)
        gib = [(r["peak_mib"][side] or 0) / 1024 for _, _, r in steps]
        memory.plot(lengths, gib, marker="o", label=side)
    for axes, label in ((speed, "tokens per second"), (memory, "peak memory, GiB")):
        axes.set(xlabel="length", ylabel=label, xscale="log")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    speed.legend()
    figure.suptitle("Training step of a language model, chunk 1024")
    figure.savefig(path, dpi=150)
    return f"Written to {path.parent}."
