"""Pictures of results: quality against bytes, and against milliseconds. The door of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_colbert.counts import counted
from mlx_colbert.errors import InputError, MissingExtraError

__all__ = ["check_picture", "draw"]

# Key of a result → label of the horizontal axis.
_AXES = {"bytes": "bytes of an average document", "ms": "ms for a query, without the encoder"}
# So that systems differ without colours too.
_MARKERS = "osD^v<>Pph*X"


def check_picture(path: str | Path) -> None:
    """Raise an error if a picture cannot be drawn to this file.

    Raises:
        InputError: if the suffix of the name is not known, or there is no such folder.
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise MissingExtraError("a plot", "plot") from error
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise InputError(f"{path}: the format {kind!r} is not known. End the name with .png, .svg or .pdf.")
    if not Path(path).parent.is_dir():
        raise InputError(f"{path}: there is no folder {Path(path).parent}. Make it first.")


def draw(
    evaluations: Sequence[dict[str, Any]], path: str | Path, measure: str, *, dark: bool = False
) -> None:
    """Draw a point with its interval for each system: a row of two pictures for each dataset.

    Args:
        evaluations: results as `Evaluation.to_dict` gives them, one or more.
        path: the file. Its suffix is the format: .png, .svg or .pdf.
        measure: the measure of the vertical axes.
        dark: draw with light lines on a black background.

    Raises:
        InputError: if there is no result, the format is not known, or the measure was not computed.
        MissingExtraError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    check_picture(path)
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not evaluations:
        raise InputError("there are no results to draw. Give at least one.")
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(11, 4.2 * len(evaluations)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(evaluations), 2, squeeze=False)
        for row, evaluation in zip(rows, evaluations, strict=True):
            for axes, name in zip(row, _AXES, strict=True):
                _draw_systems(axes, evaluation, name, measure)
            row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        figure.savefig(path, dpi=150)


def _draw_systems(axes: Any, evaluation: dict[str, Any], name: str, measure: str) -> None:
    divisor = evaluation["n_documents"] if name == "bytes" else 1
    for place, (system, result) in enumerate(evaluation["systems"].items()):
        if measure not in result["measures"]:
            known = ", ".join(result["measures"])
            raise InputError(f"the measure {measure!r} was not computed. Give one of {known}.")
        # A ranking from a file has neither.
        if not result[name]:
            continue
        found = result["measures"][measure]
        x, y = result[name] / divisor, found["mean"]
        marker = _MARKERS[place % len(_MARKERS)]
        reach = [[y - found["low"]], [found["high"] - y]]
        axes.errorbar(x, y, yerr=reach, marker=marker, capsize=3, linestyle="", label=system)
    axes.set_xscale("log")
    axes.set_xlabel(_AXES[name])
    axes.set_ylabel(measure)
    axes.set_title(f"{evaluation['dataset']}: {counted(evaluation['n_documents'], 'document')}")
    axes.grid(visible=True, alpha=0.3)
