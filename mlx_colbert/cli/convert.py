"""`mlx-colbert convert`, or `python -m mlx_colbert.convert`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mlx_colbert.cli.arguments import location
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.errors import InputError

EXAMPLE = "mlx-colbert convert --hf-path colbert-ir/colbertv2.0 --mlx-path mlx_model --verify"
JSON_KEYS = """{"path"}; with --dim also "notes"; with --verify also "notes", "passed" and
"checks": [{"name", "expected", "measured", "passed", "difference", "allowed"}]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `convert`. Where mlx-lm has the same flag, the name is the same."""
    add = parser.add_argument
    add(
        "--hf-path",
        "--model",
        required=True,
        metavar="PATH",
        type=location,
        help="hub id or local folder of the checkpoint",
    )
    add(
        "--mlx-path",
        default="mlx_model",
        metavar="DIR",
        type=location,
        help="folder to write (default: mlx_model)",
    )
    add("--revision", help="branch, tag or commit on the hub")
    add(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="type of the weights (default: the checkpoint's)",
    )
    add("-q", "--quantize", action="store_true", help="store the large matrices as integers")
    add("--q-bits", type=int, metavar="N", help="with -q: bits of an integer: 2, 4 or 8 (default: 4)")
    add("--q-group-size", type=int, metavar="N", help="with -q: weights that share a scale (default: 64)")
    add("--dim", type=int, metavar="D", help="keep the first D components of each vector (Matryoshka)")
    add(
        "--language",
        metavar="LANG",
        help="for a model with adapters for each language: the one to keep, such as en_XX",
    )
    add(
        "--projection-dim",
        type=int,
        metavar="D",
        help="fit a projection to D components, for an encoder that has none",
    )
    add("--fit-on", metavar="TEXTS", type=location, help="texts to fit it on: a file or folder as for index")
    add(
        "--ignore-config-key",
        action="append",
        default=[],
        metavar="NAME",
        help="ignore a setting that is not understood and does not change the vectors; may be given again",
    )
    add("--upload-repo", metavar="REPO", help="hub repository to upload the result to")
    add(
        "--verify",
        action="store_true",
        help="compare with published values, and with sentence-transformers if it is installed",
    )


def run(args: argparse.Namespace) -> Result:
    """Convert, and verify if asked.

    Returns:
        {"path", "checks", "notes", "passed"}; the last three with --verify, "notes" with --dim too.
    """
    from mlx_colbert.convert.conversion import convert

    if not args.quantize and (args.q_bits is not None or args.q_group_size is not None):
        raise InputError("--q-bits and --q-group-size need -q.")
    if args.verify and (args.dim is not None or args.language is not None):
        raise InputError("--verify compares with the whole original: remove --dim and --language.")
    path = convert(
        args.hf_path,
        args.mlx_path,
        revision=args.revision,
        dtype=args.dtype,
        quantize=args.quantize,
        q_bits=4 if args.q_bits is None else args.q_bits,
        q_group_size=64 if args.q_group_size is None else args.q_group_size,
        dim=args.dim,
        language=args.language,
        projection_dim=args.projection_dim,
        fit_on=args.fit_on,
        ignore_config_keys=args.ignore_config_key,
        # With --verify, only a model that passes is uploaded.
        upload_repo=None if args.verify else args.upload_repo,
    )
    from mlx_colbert.model.folder import read_config
    from mlx_colbert.model.hub import locate

    # The commit that was converted: the branch may have moved since then.
    revision = read_config(path).source.revision or args.revision
    if not args.verify:
        notes = []
        if args.dim is not None:
            notes.append(_matryoshka(locate(args.hf_path, revision=revision).folder))
        return {"path": str(path), **({"notes": notes} if notes else {})}
    from mlx_colbert.convert.verify import verify

    # The original does not have the fitted projection.
    compared_with = None if args.projection_dim is not None else args.hf_path
    report = verify(path, compared_with, revision=revision)
    checks = [asdict(check) for check in report.checks]
    if args.upload_repo is not None and report.passed:
        from mlx_colbert.convert.upload import upload

        original = locate(args.hf_path, revision=revision)
        upload(path, args.upload_repo, original, report.checks)
    return {"path": str(path), "checks": checks, "notes": report.notes, "passed": report.passed}


def render(result: Result, args: argparse.Namespace) -> str:
    """The folder of the model, a line for each comparison, and what was not compared."""
    lines = [f"{result['path']}: converted."]
    for check in result.get("checks", []):
        verdict = "ok" if check["passed"] else "FAILED"
        lines.append(f"{verdict:>6}  {check['name']}: {check['measured']}, expected {check['expected']}")
    lines += result.get("notes", [])
    if not result.get("passed", True) and all(check["passed"] for check in result["checks"]):
        lines.append(
            "Not verified: there was nothing to compare with. Install sentence-transformers and torch."
        )
    return "\n".join(printable(line) for line in lines)


def _matryoshka(folder: Path) -> str:
    """A sentence that says whether the vectors of a checkpoint may be shortened."""
    from mlx_colbert.untrusted import read_json, shown

    config = folder / "config.json"
    announced = read_json(config).get("matryoshka_dimensions") if config.is_file() else None
    if not announced:
        return "The checkpoint does not say that its vectors may be shortened. Measure the loss of quality."
    return f"The checkpoint was trained for vectors of {shown(announced)} components (Matryoshka)."
