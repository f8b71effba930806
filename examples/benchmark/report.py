"""The results as a table, as JSON and as a chart."""

import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from .cases import Case, LanguageModelCase

Result = Tuple[
    Case, Dict
]  # a case, and "seconds", "repetitions", "parameters", "peak_mib" of sides
AGAINST = {
    "published": "faster than published",
    "transformer": "faster than transformer",
    "floor": "times the floor",
    "memory": "of published's memory",
}
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
    text = "\n\n".join(filter(None, [_machine(machine), table(results), _growth(growth)]))
    text = "\n\n".join(filter(None, [text, _parameters(results)])) + "\n"
    (out / "results.md").write_text(text)
    return text + "\n" + _chart(out / "chart.png", results)


def ratios(result: Dict) -> Dict[str, float]:
    """How many times as fast as other sides; the time over the floor; the memory over that of the
    published formulation."""
    seconds, memory = result["seconds"], result["peak_mib"]
    others = (side for side in ("published", "transformer") if side in seconds)
    found = {side: seconds[side] / seconds["ours"] for side in others}
    if "floor" in seconds:
        found["floor"] = seconds["ours"] / seconds["floor"]
    if memory["published"]:
        found["memory"] = memory["ours"] / memory["published"]
    return found


def met(kind: str, ratio: float, goal: float) -> bool:
    return ratio <= goal if kind in ("floor", "memory") else ratio >= goal


def generation_growth(results: List[Result]) -> Optional[Dict[str, float]]:
    """Each side's cost of a token at the longest context over that at the shortest."""
    found = [r["seconds"] for c, r in results if c.name.startswith("generation-")]
    if len(found) < 2:
        return None
    return {side: found[-1][side] / found[0][side] for side in found[0]}


# --- text -----------------------------------------------------------------------------------------


def table(results: List[Result]) -> str:
    """Markdown: times, peak memory, and ratios beside their goals."""
    head = "measure", "ours", "published", "transformer", "floor", "peak MiB", *AGAINST.values()
    rows = [head, ("---",) * len(head)]
    for case, result in results:
        found = ratios(result)
        rows.append(
            (
                case.title,
                *(_time(result["seconds"].get(s)) for s in head[1:5]),
                " / ".join(_mib(result["peak_mib"][s]) for s in case.sides),
                *(_ratio(kind, found.get(kind), case.goals.get(kind)) for kind in AGAINST),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
    sign = "≤" if kind in ("floor", "memory") else "≥"
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
    counts = {}
    for case, result in results:
        if "transformer" in result["parameters"]:
            kind = "language model" if hasattr(case, "chunk_size") else "translation"
            counts[kind] = result["parameters"]
    lines = (
        f"{kind}: ours {c['ours']:,}, published {c['published']:,}, "
        f"transformer {c['transformer']:,} ({c['transformer'] / c['ours'] - 1:+.1%})"
        for kind, c in counts.items()
    )
    return "\n".join(f"Parameters of the {line}." for line in lines)


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
