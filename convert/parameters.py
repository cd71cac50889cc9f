"""An encoder's parameters: from a family's names on disk to this package's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_colbert.convert.families.hf_config import HFConfig
from mlx_colbert.model.backbones.backbone import Backbone
from mlx_colbert.model.parameters import expected_shapes
from mlx_colbert.types import Array

__all__ = ["Architecture", "canonical_tensors"]

# Buffers of older transformers versions: they hold 0, 1, 2, … or zeros.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")


@dataclass(frozen=True)
class Architecture:
    """One model family.

    Attributes:
        read: its encoder (or decoder) settings from its config.json.
        prefixes: what may stand before its tensor names; the bare model's "" among them.
        modules: canonical module -> its modules; several are joined along the output axis.
        layer: where layer {i} lies.
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


def _stripped(architecture: Architecture, tensors: Mapping[str, Array]) -> Iterator[tuple[str, str, Array]]:
    """(name on disk, name without prefix and in today's spelling, tensor) of each tensor of the encoder."""
    table = architecture.modules["embeddings.token"] + ".weight"
    prefix = next((p for p in architecture.prefixes if p + table in tensors), architecture.prefixes[-1])
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            if not name.startswith(architecture.heads):
                yield name, f"outside {prefix}: {name}", tensor
            continue
        short = name.removeprefix(prefix)
        # TensorFlow's names, still in the first BERT checkpoints.
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if short.endswith(old):
                short = short.removesuffix(old) + new
        if not architecture.passes_over(short) and not short.endswith(_BUFFERS):
            yield name, short, tensor


def canonical_tensors(
    architecture: Architecture,
    config: Backbone,
    tensors: Mapping[str, Array],
    *,
    unused: Sequence[str] = (),
) -> tuple[dict[str, Array], list[str]]:
    """The encoder's parameters under their canonical names, and what is wrong with them.

    Args:
        architecture: the family.
        config: its settings.
        tensors: name on disk -> array.
        unused: names on disk that belong to something else.

    Returns:
        canonical name -> array, and one sentence for each tensor missing, extra or of the wrong shape.
    """
    found = {
        short: (name, tensor)
        for name, short, tensor in _stripped(architecture, tensors)
        if name not in unused
    }
    canonical: dict[str, Array] = {}
    problems: list[str] = []
    used: set[str] = set()
    expected = expected_shapes(config, ())
    for target in expected:
        sources = architecture.sources(target)
        missing = [source for source in sources if source not in found]
        used.update(sources)
        if missing:
            problems += [f"tensor {source} is missing" for source in missing]
            continue
        parts = [found[source][1] for source in sources]
        if len({part.shape[1:] for part in parts}) > 1 or any(part.ndim == 0 for part in parts):
            problems.append(f"tensors {', '.join(sources)} have shapes {[part.shape for part in parts]}")
            continue
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        canonical[target] = architecture.reorder(target, joined)
    problems += [f"tensor {found[short][0]} is not expected" for short in sorted(set(found) - used)]
    problems += [
        f"tensor {', '.join(architecture.sources(name))} has shape {value.shape}, expected {expected[name]}"
        for name, value in canonical.items()
        if value.shape != expected[name]
    ]
    integers = [name for name in canonical if canonical[name].dtype.kind != "f"]
    problems += [f"tensor {', '.join(architecture.sources(name))} holds integers" for name in integers]
    return canonical, problems
