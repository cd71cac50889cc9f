"""An encoder's parameters: from a family's names on disk to this package's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.convert.families.hf_config import HFConfig
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.types import Array

__all__ = ["Architecture", "canonical_tensors", "tensor_sources"]

# Buffers of older transformers versions: they hold 0, 1, 2, … or zeros.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")


@dataclass(frozen=True)
class Architecture:
    """One model family.

    Attributes:
        read: its encoder (or decoder) settings from its config.json.
        prefixes: what may stand before its tensor names; the bare model's "" among them.
        modules: canonical module -> its modules; several are joined along the output axis.
        layer: where layer {i} is.
        layer_modules: the same within a layer; empty for a decoder, which keeps its names.
        heads: beginnings of tensor names that belong to parts not used here.
        adapters: where a layer has one adapter for each language, by the language's name; "" if it has none.
        language: the one whose adapters are used.
        reorder: the axes of a tensor, by its canonical name, in this package's order.
    """

    read: Callable[[HFConfig], Backbone]
    prefixes: tuple[str, ...]
    modules: Mapping[str, str]
    layer: str
    layer_modules: Mapping[str, tuple[str, ...]]
    heads: tuple[str, ...]
    adapters: str = ""
    language: str = ""
    reorder: Callable[[str, Array], Array] = lambda _, tensor: tensor

    def sources(self, canonical: str) -> tuple[str, ...]:
        """The family's names, without prefix, of the tensors behind a canonical one."""
        if not self.layer_modules:
            return (canonical,)
        module, _, suffix = canonical.rpartition(".")
        if module.startswith("layers."):
            _, number, rest = module.split(".", 2)
            place = self.layer.format(i=number)
            names = (name.format(language=self.language) for name in self.layer_modules[rest])
            return tuple(f"{place}.{name}.{suffix}" for name in names)
        return (f"{self.modules[module]}.{suffix}",)

    def passes_over(self, name: str) -> bool:
        """Whether a tensor, named without prefix, belongs to a part or a language that is not used here."""
        is_adapter = bool(self.adapters) and f".{self.adapters}." in name
        of_another = is_adapter and f".{self.adapters}.{self.language}." not in name
        return of_another or name.startswith(self.heads)


def _stripped(architecture: Architecture, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name on disk, name without prefix and in today's spelling) of each tensor of the encoder."""
    names = list(names)
    table = architecture.modules["embeddings.token"] + ".weight"
    prefix = next((p for p in architecture.prefixes if p + table in names), architecture.prefixes[-1])
    for name in names:
        if not name.startswith(prefix):
            if not name.startswith(architecture.heads):
                yield name, f"outside {prefix}: {name}"
            continue
        short = name.removeprefix(prefix)
        # TensorFlow's names, still in the first BERT checkpoints.
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if short.endswith(old):
                short = short.removesuffix(old) + new
        if not architecture.passes_over(short) and not short.endswith(_BUFFERS):
            yield name, short


def tensor_sources(
    architecture: Architecture,
    config: Backbone,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    unused: Sequence[str] = (),
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Which tensors on disk make each parameter of the encoder, and what is wrong with them.

    Args:
        architecture: the family.
        config: its settings.
        shapes: name on disk -> shape.
        unused: names on disk that belong to something else.

    Returns:
        canonical name -> names on disk, and a sentence for each tensor missing, extra or of the wrong shape.
    """
    found = {short: name for name, short in _stripped(architecture, shapes) if name not in unused}
    sources: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    used: set[str] = set()
    for target, expected in expected_shapes(config, ()).items():
        shorts = architecture.sources(target)
        missing = [short for short in shorts if short not in found]
        used.update(shorts)
        if missing:
            problems += [f"tensor {short} is missing" for short in missing]
            continue
        sources[target] = tuple(found[short] for short in shorts)
        shape = _joined_shape(architecture, target, [shapes[name] for name in sources[target]])
        if shape != expected:
            problems.append(f"tensor {', '.join(shorts)} has shape {shape}, expected {expected}")
    problems += [f"tensor {found[short]} is not expected" for short in sorted(set(found) - used)]
    return sources, problems


def _joined_shape(
    architecture: Architecture, target: str, parts: list[tuple[int, ...]]
) -> tuple[int, ...] | list[tuple[int, ...]]:
    """The shape of what `canonical_tensors` makes of such parts, or theirs where they do not fit together."""
    if len({part[1:] for part in parts}) > 1 or not all(parts):
        return parts if len(parts) > 1 else parts[0]
    shape = (sum(part[0] for part in parts), *parts[0][1:])
    try:
        # One number, repeated without taking memory.
        return architecture.reorder(target, np.broadcast_to(np.float32(0), shape)).shape
    except ValueError:  # beyond what numpy can address
        return shape


def canonical_tensors(
    architecture: Architecture, sources: Mapping[str, tuple[str, ...]], tensors: Mapping[str, Array]
) -> tuple[dict[str, Array], list[str]]:
    """The encoder's parameters under their canonical names, and a sentence for each that is not of floats.

    Args:
        architecture: the family.
        sources: as `tensor_sources` found them, without problems.
        tensors: name on disk -> array.
    """
    canonical: dict[str, Array] = {}
    for target, names in sources.items():
        parts = [tensors[name] for name in names]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        canonical[target] = architecture.reorder(target, joined)
    problems = [
        f"tensor {name} contains integers"
        for names in sources.values()
        for name in names
        if tensors[name].dtype.kind != "f"
    ]
    return canonical, problems
