"""The layouts that checkpoints come in, each read into one `Source`.

The order of detection, and what each setting means, is that of sentence-transformers 6.2's
`MultiVectorEncoder`, with one exception: where modules.json lists no Dense layer beside an
"HF_ColBERT" config, the Stanford layout wins (mxbai-colbert-large-v1 ships such a stale file).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_colbert.convert.families.registry import architecture_of
from mlx_colbert.convert.parameters import Architecture
from mlx_colbert.convert.problems import Problems
from mlx_colbert.convert.sources.modules import Module, normalizes_tokens, read_dense, read_modules
from mlx_colbert.convert.sources.settings import Settings
from mlx_colbert.convert.weights import Weights, read_weights, widest
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError
from mlx_colbert.model.config import Dtype, Layout, ProjectionLayer, Similarity, Task
from mlx_colbert.model.hub import CHANGES, SENTENCE_CONFIGS
from mlx_colbert.types import Array
from mlx_colbert.untrusted import read_json, shown

__all__ = ["Expansion", "Source", "read_source"]

# Keys of config_sentence_transformers.json that only a ColBERT has.
_PYLATE_KEYS = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "skiplist_words",
)
_SENTENCE_KEYS = frozenset(
    # sentence-transformers' truncate_dim is an argument of who encodes; MultiVectorEncoder reads none.
    ("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
)


# Files that make another model of the weights beside them -> what they are, and what to do.
_CHANGES = {
    "adapter": "an adapter (LoRA) changes the weights beside it, and is not read here. Merge it first "
    "with peft's merge_and_unload(), and save the merged model.",
    "colbert_linear": "BGE-M3's projection is not read. Save the model with PyLate or sentence-transformers, "
    "or remove the file to convert the encoder alone.",
}


@dataclass(frozen=True)
class Expansion:
    """How queries are filled up.

    Attributes:
        floor: shorter queries are filled up to this many tokens.
        ceiling: longer ones are truncated to this many; None: the general limit.
        attend: whether other tokens attend to the fill.
        token: the fill; None: the tokenizer's mask token.
    """

    floor: int
    ceiling: int | None
    attend: bool
    token: str | None = None


@dataclass
class Source:
    """A checkpoint under the names that it has on disk.

    Attributes:
        layout: which kind it is.
        folder: where config.json, the backbone's weights and the tokenizer lie.
        config: the backbone's config.json.
        architecture: the family that it names.
        weights: the backbone's tensors, as named on disk.
        unused: names among them that the layout uses itself.
        projection: the layers after the backbone.
        projection_weights: where each parameter of them is, "projection.0.weight" and so on: the weights of
            its module, and its name in them.
        modules: the folders that have weights, by their place in the checkpoint: "" or "1_Dense/".
        prefixes: "query" and "document" -> text put in front.
        markers: prefixes that the tokenizer must keep whole.
        query_length: limit in tokens; None: the tokenizer's.
        document_length: the same for documents.
        expansion: None: queries are not filled up.
        skiplist_words: tokens that are not scored.
        skiplist_tasks: on which side.
        max_seq_length: the tokenizer's limit where a file sets one.
        do_lower_case: texts are lower-cased first.
        similarity: "maxsim" or "meanmaxsim".
        problems: settings that are not understood, one sentence each.
    """

    layout: Layout
    folder: Path
    config: dict[str, Any]
    architecture: Architecture
    weights: Weights
    unused: tuple[str, ...] = ()
    projection: tuple[ProjectionLayer, ...] = ()
    projection_weights: dict[str, tuple[Weights, str]] = field(default_factory=dict)
    modules: dict[str, Weights] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    query_length: int | None = None
    document_length: int | None = None
    expansion: Expansion | None = None
    skiplist_words: tuple[str, ...] = ()
    skiplist_tasks: tuple[Task, ...] = ("document",)
    max_seq_length: int | None = None
    do_lower_case: bool = False
    similarity: Similarity = "maxsim"
    problems: Problems = field(default_factory=Problems)

    @property
    def dtypes(self) -> set[Dtype]:
        """The floating types that the weights have on disk; of a Dense module the widest."""
        return {widest(weights.dtypes) for weights in self.modules.values()} | self.weights.dtypes

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every weight file."""
        return {
            f"{place}{name}": digest
            for place, weights in self.modules.items()
            for name, digest in weights.files.items()
        }

    @property
    def projection_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of the projection."""
        return {name: weights.shapes[own][1] for name, (weights, own) in self.projection_weights.items()}

    def projection_tensors(self) -> dict[str, Array]:
        """The parameters of the projection."""
        return {name: weights.read([own])[own] for name, (weights, own) in self.projection_weights.items()}


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _add_dense(source: Source, folder: Path, problems: Problems, *, sentence: bool) -> None:
    """Appends the Dense module in `folder` to the projection."""
    dense = read_dense(folder, problems, sentence=sentence)
    if dense is None:
        return
    number = len(source.projection)
    source.projection = (*source.projection, dense.layer)
    source.projection_weights |= {
        f"projection.{number}.{name.removeprefix('linear.')}": (dense.weights, name)
        for name in dense.weights.shapes
    }
    source.modules[f"{dense.folder.name}/"] = dense.weights


def _read_transformer(source: Source, problems: Problems) -> Settings:
    """Reads what sentence-transformers writes beside the backbone into `source`."""
    present = (name for name in SENTENCE_CONFIGS if (source.folder / name).is_file())
    file = next(present, SENTENCE_CONFIGS[0])
    settings = Settings(_read_optional(source.folder / file), file, problems)
    known = """max_seq_length do_lower_case query_length document_length query_expansion transformer_task
        modality_config module_output_name unpad_inputs"""
    settings.only(frozenset(known.split()))
    source.max_seq_length = settings.length("max_seq_length")
    source.do_lower_case = settings.flag("do_lower_case", False)
    if settings.text("transformer_task", "feature-extraction") != "feature-extraction":
        problems.append(
            f"{file}: 'transformer_task' {shown(settings.values['transformer_task'])} is not implemented"
        )
    modality = settings.values.get("modality_config")
    last_hidden = {"method": "forward", "method_output_name": "last_hidden_state"}
    if modality is not None and modality != {"text": last_hidden}:
        problems.append(f"{file}: 'modality_config' {shown(modality)} is not implemented")
    return settings


def _prompts(settings: Settings) -> dict[str, str]:
    """The prompts of queries and of documents."""
    prompts = settings.values.get("prompts") or {}
    if not isinstance(prompts, dict):
        settings.problems.append(f"{settings.file}: 'prompts' must be an object")
        return {}
    inner = Settings(prompts, f"{settings.file}: prompts", settings.problems)
    return {task: inner.text(task, "") for task in ("query", "document")}


def _similarity(settings: Settings, *maxsim: str) -> Similarity:
    """The similarity of a ColBERT; `maxsim` are the names of the usual one."""
    name = settings.text("similarity_fn_name", maxsim[0])
    if name not in (*maxsim, "meanmaxsim"):
        settings.problems.append(f"{settings.file}: 'similarity_fn_name' {shown(name)} is not implemented")
    return "meanmaxsim" if name == "meanmaxsim" else "maxsim"


def _read_expansion(settings: Settings, ceiling: int | None) -> Expansion | None:
    """The `query_expansion` object of a native sentence-transformers checkpoint."""
    value = settings.values.get("query_expansion")
    if value is None:
        return None
    if not isinstance(value, dict):
        settings.problems.append(f"{settings.file}: 'query_expansion' must be an object")
        return None
    inner = Settings(value, f"{settings.file}: query_expansion", settings.problems)
    inner.only(frozenset(("strategy", "attend", "token", "length")))
    strategy, length = inner.text("strategy", ""), inner.length("length")
    if strategy not in ("fixed", "min") or length is None:
        settings.problems.append(
            f"{inner.file}: needs a strategy (fixed or min) and a length, got {shown(value)}"
        )
        return None
    if strategy == "min" and ceiling is not None and ceiling < length:
        settings.problems.append(
            f"{settings.file}: 'query_length' {ceiling} is below the expansion's {length}"
        )
    token = value.get("token")
    limit = length if strategy == "fixed" else ceiling
    return Expansion(
        length, limit, inner.flag("attend", False), None if token is None else inner.text("token", "")
    )


def _read_native(source: Source, modules: list[Module], settings: Settings) -> None:
    """sentence-transformers 6's own format: Transformer, Dense…, MultiVectorMask, Normalize."""
    source.layout = "sentence-transformers"
    problems = settings.problems
    settings.only(_SENTENCE_KEYS)
    transformer = _read_transformer(source, problems)
    source.query_length = transformer.length("query_length")
    source.document_length = transformer.length("document_length")
    source.expansion = _read_expansion(transformer, source.query_length)
    source.prefixes = _prompts(settings)
    source.similarity = _similarity(settings, "maxsim")
    rest = _read_layers(source, modules, problems, sentence=False)
    masks = [module for module in rest if module.kind == "MultiVectorMask"]
    for module in masks:
        _read_mask(source, module.folder, problems)
    if not any(module.kind == "Normalize" for module in rest):
        problems.append("modules.json: no Normalize module for tokens, so vectors have no unit length")
    if not masks and source.expansion is not None and not source.expansion.attend:
        problems.append("modules.json: query expansion without a MultiVectorMask is not implemented")


def _read_layers(
    source: Source, modules: list[Module], problems: Problems, *, sentence: bool
) -> list[Module]:
    """Reads the Dense modules behind the backbone; returns the token-level modules that follow them.

    Args:
        source: gets the layers.
        modules: the entries of modules.json.
        problems: gets what is not implemented.
        sentence: whether modules for whole sentences are passed over, and a Dense of theirs taken for tokens.
    """
    rest: list[Module] = []
    passed_over = ("Pooling", "Normalize") if sentence else ()
    for module in modules[1:]:
        for_tokens = module.kind != "Normalize" or normalizes_tokens(module.folder)
        if module.kind == "Dense" and not rest:
            _add_dense(source, module.folder, problems, sentence=sentence)
        elif module.kind in ("MultiVectorMask", "Normalize") and for_tokens:
            rest.append(module)
        elif module.kind not in passed_over:
            problems.append(f"modules.json: a {module.kind} at this place is not implemented")
    return rest


def _read_mask(source: Source, folder: Path, problems: Problems) -> None:
    mask = Settings(read_json(folder / "config.json"), f"{folder.name}/config.json", problems)
    mask.only(frozenset(("skiplist_words", "skiplist_tasks")))
    source.skiplist_words = mask.words("skiplist_words", ())
    tasks: list[Task] = []
    named = mask.values.get("skiplist_tasks")
    for task in (named,) if isinstance(named, str) else mask.words("skiplist_tasks", ("document",)):
        if task == "query":
            tasks.append("query")
        elif task == "document":
            tasks.append("document")
        else:
            problems.append(f"{mask.file}: unknown task {shown(task)} in 'skiplist_tasks'")
    source.skiplist_tasks = tuple(tasks)


def _read_pylate(source: Source, modules: list[Module], settings: Settings) -> None:
    """PyLate: Transformer, Dense…; masking and normalisation are implied."""
    source.layout = "pylate"
    problems = settings.problems
    settings.only(_SENTENCE_KEYS | set(_PYLATE_KEYS))
    # Saves from before ColBERT had a similarity of its own say "cosine".
    source.similarity = _similarity(settings, "maxsim", "MaxSim", "cosine")
    _refuse_lengths(_read_transformer(source, problems))
    _read_layers(source, modules, problems, sentence=True)
    prompts = _prompts(settings)
    markers = []
    for task in ("query", "document"):
        marker = settings.text(f"{task}_prefix", "")
        source.prefixes[task] = marker + prompts.get(task, "").removeprefix(marker)
        markers.append(marker)
    source.markers = tuple(markers)
    length = settings.length("query_length")
    source.document_length = settings.length("document_length")
    if settings.flag("do_query_expansion", True) and any(key in settings.values for key in _PYLATE_KEYS):
        # The older key counts where the newer one is absent; null is what the newer one says of no.
        older = (
            settings.flag("attend_to_mask_tokens", False)
            and "attend_to_expansion_tokens" not in settings.values
        )
        attend = settings.flag("attend_to_expansion_tokens", older)
        source.expansion = Expansion(length or 32, length or 32, attend)
    else:
        source.query_length = length
    # PyLate's default; a save that is not PyLate's own and names no marker has none.
    is_pylate = settings.values.get("model_type") == "ColBERT" or any(
        f"{task}_prefix" in settings.values for task in ("query", "document")
    )
    source.skiplist_words = settings.words("skiplist_words", tuple(string.punctuation) if is_pylate else ())


def _read_stanford(source: Source) -> None:
    """Stanford ColBERT: `linear.weight` beside the backbone projects.

    artifact.metadata records a training run in dozens of keys; these are the ones that encoding depends on.
    """
    source.layout = "stanford"
    problems = source.problems
    source.unused = ("linear.weight",)
    _, shape = source.weights.shapes.get("linear.weight", ("", ()))
    settings = Settings(_read_optional(source.folder / "artifact.metadata"), "artifact.metadata", problems)
    if len(shape) != 2:
        problems.append("tensor linear.weight, the projection, is missing or no matrix")
    else:
        source.projection = (ProjectionLayer(shape[1], shape[0]),)
        source.projection_weights = {"projection.0.weight": (source.weights, "linear.weight")}
        dim = settings.values.get("dim")
        if dim is not None and dim != shape[0]:
            problems.append(
                f"artifact.metadata: 'dim' is {shown(dim)}, but linear.weight has {shape[0]} rows"
            )
    if settings.text("interaction", "colbert") != "colbert":
        problems.append(
            f"artifact.metadata: 'interaction' {shown(settings.values['interaction'])} is not implemented"
        )
    # "l2" scores -|q - d|^2, which for unit rows is 2 q.d - 2: the order is MaxSim's.
    if settings.text("similarity", "cosine") not in ("cosine", "l2"):
        problems.append(
            f"artifact.metadata: 'similarity' {shown(settings.values['similarity'])} is not implemented"
        )
    source.prefixes = {
        "query": (settings.text("query_token_id", "") or "[unused0]") + " ",
        "document": (settings.text("doc_token_id", "") or "[unused1]") + " ",
    }
    source.markers = tuple(source.prefixes.values())
    length = settings.length("query_maxlen") or 32
    source.expansion = Expansion(length, length, settings.flag("attend_to_mask_tokens", False))
    source.document_length = settings.length("doc_maxlen")
    # A null turns it off, an absent key does not.
    if settings.flag("mask_punctuation", "mask_punctuation" not in settings.values):
        source.skiplist_words = tuple(string.punctuation)


def _read_plain(source: Source, modules: list[Module], settings: Settings) -> None:
    """An encoder without a ColBERT head: its token embeddings as they are.

    Pooling and the normalisation of the pooled vector are left out; a Dense layer after the pooling is
    applied to every token, as MultiVectorEncoder does.
    """
    _refuse_lengths(_read_transformer(source, settings.problems))
    source.prefixes = _prompts(settings)
    _read_layers(source, modules, settings.problems, sentence=True)


def _refuse_lengths(transformer: Settings) -> None:
    """Complains about a ColBERT's lengths beside a backbone whose layout states them elsewhere."""
    for key in ("query_length", "document_length", "query_expansion"):
        if transformer.values.get(key) is not None:
            transformer.problems.append(f"{transformer.file}: {key!r} is not implemented for this layout")


def _refuse_changes(folders: Iterable[Path]) -> None:
    """Refuses folders in which the weights are not all of the model.

    Raises:
        CheckpointError: naming the file that changes them.
    """
    for folder in folders:
        for name in (*CHANGES, "adapter_model.safetensors", "adapter_model.bin"):
            if (folder / name).exists():
                kind = "adapter" if name.startswith("adapter") else "colbert_linear"
                raise CheckpointError(folder / name, _CHANGES[kind])


def _backbone_folder(folder: Path, modules: list[Module]) -> Path:
    if modules and modules[0].kind != "Transformer":
        raise CheckpointError(
            folder, f"modules.json: starts with a {modules[0].kind}, not with a Transformer."
        )
    return modules[0].folder if modules else folder


def read_source(folder: Path, language: str | None = None, ignore_config_keys: Iterable[str] = ()) -> Source:
    """A checkpoint, read as the layout that it has.

    Settings that are not understood are listed in its `problems`.

    Args:
        folder: the checkpoint.
        language: whose adapters to use where there are some for each language. None: the default one.
        ignore_config_keys: settings that are passed over where they are not understood.

    Raises:
        CheckpointNotFoundError: if there is no config.json, or no weights.
        CheckpointError: if the architecture is unknown, or a file cannot be read.
    """
    st_path = folder / "config_sentence_transformers.json"
    sentence = _read_optional(st_path)
    modules = read_modules(folder)
    is_native = sentence.get("model_type") == "MultiVectorEncoder"
    is_pylate = sentence.get("model_type") == "ColBERT" or any(key in sentence for key in _PYLATE_KEYS)
    has_dense = any(module.kind == "Dense" for module in modules)
    is_stanford = _is_hf_colbert(_read_optional(folder / "config.json")) and not (is_native or has_dense)

    backbone = folder if is_stanford else _backbone_folder(folder, modules)
    if not (backbone / "config.json").is_file():
        raise CheckpointNotFoundError(
            folder, f"{backbone.name}/config.json is missing: this is no checkpoint."
        )
    config = read_json(backbone / "config.json")
    architecture = architecture_of(config, str(backbone / "config.json"), language)
    _refuse_changes([folder, backbone, *(module.folder for module in modules)])
    weights = read_weights(backbone)
    inner = "" if backbone == folder else f"{backbone.name}/"
    source = Source("plain", backbone, config, architecture, weights)
    source.problems = Problems(ignore_config_keys)
    source.modules[inner] = weights
    if _is_hf_colbert(config):
        source.unused = ("linear.weight",)
    settings = Settings(sentence, st_path.name, source.problems)
    if is_stanford:
        _read_stanford(source)
    elif is_native:
        _read_native(source, modules, settings)
    elif is_pylate:
        _read_pylate(source, modules, settings)
    else:
        _read_plain(source, modules, settings)
    return source


def _is_hf_colbert(config: Mapping[str, Any]) -> bool:
    architectures = config.get("architectures")
    return isinstance(architectures, list) and "HF_ColBERT" in architectures
