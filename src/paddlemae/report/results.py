"""Results of a run as rows of a table: what was done in the same way from other starts and seeds is in one row."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from types import NoneType
from typing import Any

from paddlemae.runs.metrics import CLASSIFICATION, TOKEN_NAMES, metrics_named, metrics_of, primary_of, title_of
from paddlemae.runs.runlog import RESULTS_FILE, is_number
from paddlemae.system.display_names import display_name, escape_lines

STARTS = ("pretrained", "random", "scratch")
ORDER = ("knn", "probe", "partial", "finetune", "segment", "evaluate")  # of results
# of a protocol, what the title says or what is averaged over
SAID = ("seed", "k", "votes", "labels", "trainable_blocks", "cached", "token", "layer", "norm", "head", "frozen")

Json = dict[str, Any]


def rows_of(results: Iterable[Json], task: str, problems: list[str]) -> Iterator[Json]:
    """Yield results as rows of a table: one row for all starts and seeds of the same evaluation."""
    rows: dict[tuple[Any, ...], Json] = {}
    cells: dict[tuple[Any, ...], dict[Any, Json]] = {}
    for result in results:
        if not _makes_sense(result):
            problems.append(f"{RESULTS_FILE}: a result of {result['task']} is damaged and was left out")
            continue
        key, start = _identity(result), result.get("start", "pretrained")
        row = {"task": result["task"], "title": key[1], "detail": key[2], "checkpoint": key[3], "metric": key[4]}
        rows.setdefault(key, {**row, "starts": {}, "majority": None})
        rows[key]["majority"] = _majority(result, key[4]) or rows[key]["majority"]
        cells.setdefault((key, start), {})[result["protocol"].get("seed")] = result  # done again, the newest counts
    for (key, start), by_seed in cells.items():
        rows[key]["starts"][start] = _cell(list(by_seed.values()), key[4])
    for key in sorted(rows, key=lambda key: (key[0], _numbers(key[1]), *key[1:])):
        starts = rows[key]["starts"]
        yield {**rows[key], "starts": {name: starts[name] for name in STARTS if name in starts}}


def _makes_sense(result: Json) -> bool:
    """Check that a result has its number, protocol and start, and that the rest is of the types that are written."""
    command = result.get("command", [])
    return (
        metrics_of(result) is not None
        and isinstance(result["task"], str)
        and result.get("start", STARTS[0]) in STARTS
        and isinstance(result.get("protocol"), dict)
        and isinstance(result["protocol"].get("seed"), (int, NoneType))
        and all(isinstance(result.get(name), (int, NoneType)) for name in ("train_images", "eval_images"))
        and isinstance(command, list)
        and all(isinstance(word, str) for word in command)
    )


def _identity(result: Json) -> tuple[int, str, str, str, str]:
    """Return (place among the kinds of results, title, detail, pretrained checkpoint, primary metric)."""
    protocol, kind = result["protocol"], result["task"]
    blocks, labels = protocol.get("trainable_blocks"), protocol.get("labels")
    if kind == "finetune" and blocks is not None:
        kind = "partial"
    titles = {
        "knn": f"kNN, k = {protocol.get('k')}, {protocol.get('votes')} votes",
        "probe": f"linear probe{', cached features' if protocol.get('cached') else ''}",
        "partial": f"last {blocks:g} block{'' if blocks == 1 else 's'} fine-tuned"
        if isinstance(blocks, (int, float))
        else "",
        "finetune": "fine-tuned",
        "segment": f"segmenter, {protocol.get('head')} head{', frozen encoder' if protocol.get('frozen') else ''}",
        "evaluate": "evaluated",
    }
    title = titles.get(kind, str(kind)) + (f", {labels} {'masks' if kind == 'segment' else 'labels'}" if labels else "")
    parts = [_features(protocol)] if "token" in protocol else []
    for verb, side in (("searched" if kind == "knn" else "trained on", "train"), ("measured on", "eval")):
        if result.get(f"{side}_images") is not None:
            name = f": {result[side]}" if result.get(side) else ""
            parts.append(f"{verb} {result[f'{side}_images']:,} images{name}")
    parts += [f"{name} {_plain(value)}" for name, value in protocol.items() if name not in SAID and value is not None]
    place = ORDER.index(kind) if kind in ORDER else len(ORDER)
    metrics = metrics_of(result)
    assert metrics is not None
    primary = primary_of(result)
    title += f", {name_of(primary)}" if primary != CLASSIFICATION.primary else ""
    return place, title, "; ".join(parts), str(result.get("checkpoint") or ""), primary


def _features(protocol: Json) -> str:
    token = TOKEN_NAMES.get(str(protocol["token"]), TOKEN_NAMES["mean"])
    layer = "the last block" if protocol.get("layer") is None else f"block {protocol['layer']}"
    return f"{token} after {layer}, norm: {protocol.get('norm')}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(title: str) -> tuple[float, ...]:
    """Return the numbers in a title, by which k = 100 is sorted after k = 20."""
    return tuple(float(word) for word in title.replace(",", "").split() if word.replace(".", "").isdigit())


def _cell(results: Sequence[Json], metric: str) -> Json:
    last = results[-1]
    titles = metrics_named(metric).titles
    values = {key: [result[key] for result in results if is_number(result.get(key))] for key in titles}
    primary = values[metric]
    return {
        **values,
        "mean": mean(primary),
        "std": stdev(primary) if len(primary) > 1 else None,
        "interval": _interval(last, metric) if len(primary) == 1 else None,
        "command": shlex.join(last.get("command", [])),
        "at": last.get("at"),
        "commit": last.get("commit"),
        "is_other_run": last.get("run") is not None,  # of a model that started from this run
    }


def _interval(result: Json, metric: str) -> list[float] | None:
    """Return the ends of the 95% interval of a result's metric; None if it has none."""
    intervals = result.get("intervals")
    ends = intervals.get(metric) if isinstance(intervals, dict) else None
    return ends if isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)) else None


def _majority(result: Json, metric: str) -> Json | None:
    """Return what naming the commonest class of the same images for all of them gives; None if that is not known."""
    majority = result.get("majority")
    if not isinstance(majority, dict) or not is_number(majority.get(metric)):
        return None
    images = result.get("eval_images")
    name = result.get("eval")
    measured = f"measured on {images:,} images{f': {name}' if name else ''}" if images is not None else ""
    return {"class": str(majority.get("class")), "value": majority[metric], "metric": metric, "detail": measured}


def majorities(rows: Iterable[Json]) -> list[Json]:
    """Return what naming the commonest class gives in a table's rows, once for each set of images."""
    found: list[Json] = []
    for row in rows:
        if (majority := row.get("majority")) and majority not in found:
            found.append(majority)
    return found


def name_of(metric: str) -> str:
    """Return the name of a metric as the heading of a table."""
    metrics = metrics_named(metric)
    return metrics.name if metric == metrics.primary else title_of(metric)


def kind_of(row: Json) -> str:
    """Return the kind of a row of results, one of `ORDER`."""
    return "partial" if row["title"].startswith("last ") else row["task"]


def compared_rows(runs: Sequence[Json]) -> Iterator[Json]:
    """Yield results of the same kind of several runs as one row, of each run's newest checkpoint that has them.

    The rows of naming the commonest class come last; they have no start. The difference is that of the last run to the
    first one; None where one of them lacks the result, or both hold the same one.
    """
    found: dict[tuple[str, str, str, str], list[float | None]] = {}
    cells: dict[tuple[str, str, str, str], dict[int, Json]] = {}
    for place, run in enumerate(runs):
        for row in run["results"]:
            for start, cell in row["starts"].items():
                key = row["title"], row["detail"], start, row["metric"]
                found.setdefault(key, [None] * len(runs))[place] = cell["mean"]
                cells.setdefault(key, {})[place] = cell
    for place, run in enumerate(runs):
        for one in majorities(run["results"]):
            key = majority_title(one), one["detail"], "", one["metric"]
            found[key] = found.pop(key, [None] * len(runs))
            found[key][place] = one["value"]
    for key, values in found.items():
        title, detail, start, metric = key
        first, last = (cells.get(key, {}).get(place) for place in (0, len(runs) - 1))
        difference = last["mean"] - first["mean"] if first and last and not _same_result(first, last) else None
        row = {"title": title, "detail": detail, "start": start, "metric": metric}
        yield {**row, metric: values, "difference": difference}


def _same_result(one: Json, other: Json) -> bool:
    """Return whether two cells hold one result: a run's own, and its copy in the run that it started from."""
    return one["is_other_run"] != other["is_other_run"] and all(
        one[name] == other[name] for name in ("mean", "command")
    )


def majority_title(majority: Json) -> str:
    """Return the title of the row that names the commonest class for every image."""
    return f"always the commonest class, '{display_name(majority['class'])}'"


def markdown(runs: Sequence[Json]) -> str:
    """Return the results of every run as a table in Markdown; several runs stand below each other."""
    parts = []
    for run in runs:
        lines = [f"### {display_name(run['name'])}", ""] if len(runs) > 1 else []
        names = dict.fromkeys(title_of(row["metric"]) for row in run["results"]) or [CLASSIFICATION.title]
        lines += [f"| {', '.join(names)} | pretrained | untrained | from scratch | points gained |"]
        lines += ["|---|---:|---:|---:|---:|"]
        lines += [markdown_row(row) for row in run["results"]]
        lines += [majority_row(one) for one in majorities(run["results"])]
        if not run["results"]:
            lines.append("| not measured yet | | | | |")
        parts.append("\n".join(lines) + "\n")
    return escape_lines("\n".join(parts))


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """Return the outcome of an `auto` run in Markdown: its sentences, and a table with a row for each method."""
    lines = [" ".join([summary["verdict"], *summary["remarks"]]), ""]
    keys = list(summary["columns"])
    if summary["rows"]:
        lines += [f"| | {' | '.join(summary['columns'].values())} | seconds |", f"|---|{'---:|' * (len(keys) + 1)}"]
    for row in summary["rows"]:
        cells = [f"{row[key]:.1%}" if key in row else "" for key in keys]
        title = display_name(row["title"], None).replace("|", "\\|")
        lines.append(f"| {' | '.join([title, *cells, format(row.get('seconds', 0), '.0f')])} |")
    return escape_lines("\n".join(lines) + "\n")


def markdown_row(row: Json, *more: str) -> str:
    """Return a row: what was done, the primary metric from every start, the points gained, and further cells."""
    cells = [measured(row["starts"][start]) if start in row["starts"] else "" for start in STARTS]
    gained = gain(row)
    return (
        f"| {' | '.join([_as_cell(row['title']), *cells, '' if gained is None else f'{100 * gained:+.1f}', *more])} |"
    )


def majority_row(majority: Json, *more: str) -> str:
    """Return the row of naming the commonest class, the same for every start, and further cells."""
    cells = [_as_cell(majority_title(majority)), *[f"{majority['value']:.1%}"] * len(STARTS), "", *more]
    return f"| {' | '.join(cells)} |"


def _as_cell(title: str) -> str:
    return display_name(title, None).replace("|", "\\|")


def measured(cell: Json) -> str:
    """Return the primary metric with its spread over seeds, or of one seed with its 95% interval."""
    ends = cell.get("interval")
    return spread(cell) + (f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else "")


def spread(cell: Json) -> str:
    """Return the mean and standard deviation over seeds, in percent."""
    return f"{cell['mean']:.1%}" + (f" ± {cell['std']:.1%}" if cell["std"] is not None else "")


def gain(row: Json) -> float | None:
    """Return how far pretraining is above training from scratch, or else above the untrained encoder."""
    starts = row["starts"]
    base = starts.get("scratch") or starts.get("random")
    return starts["pretrained"]["mean"] - base["mean"] if base and "pretrained" in starts else None
