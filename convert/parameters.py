"""Maps the names of an encoder's parameters on disk to the names of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_colbert.convert.families.hf_config import HFConfig
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.backbones.encoder import EncoderConfig
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.types import Array

__all__ = ["Architecture", "canonical_tensors", "tensor_sources"]

# Buffers of older transformers versions: they have the values 0, 1, 2, … or zeros.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")


@dataclass(frozen=True)
class Architecture:
    """One model family.

    Attributes:
        read: returns the encoder (or decoder) settings of a config.json.
        prefixes: possible prefixes of its tensor names. "" is the prefix of a bare model.
        modules: canonical module -> its modules. Several are joined along the output axis.
        layer: the name of layer {i}.
        layer_modules: the same as `modules`, within a layer. Empty for a decoder, which keeps its names.
        heads: beginnings of the names of tensors that are not used here.
        adapters: the module of a layer that has one adapter for each language. "": there are no adapters.
        language: the language whose adapters are used.
        reorder: returns a tensor with its axes in the order of this package, by its canonical name.
        settings: returns a config.json that `read` reads as these encoder settings, if there is one. The
            language is that of the adapters. None: this family is only read.
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
    settings: Callable[[EncoderConfig, str], dict[str, Any]] | None = None

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
    """The tensors on disk that make each parameter of the encoder, and what is wrong with them.

    Args:
        architecture: the family.
        config: its settings.
        shapes: name on disk -> shape.
        unused: names on disk that do not belong to the encoder.

    Returns:
        canonical name -> names on disk, and a sentence for each tensor that is missing, is not expected or
        has the wrong shape.
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
    """The shape of the tensor that `canonical_tensors` makes of these parts. Their shapes, if they differ."""
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
    """The encoder's parameters under their canonical names, and a sentence for each that contains integers.

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
