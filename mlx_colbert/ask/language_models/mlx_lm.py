"""A language model in this process, through mlx-lm. Only this file of the package generates text with it."""

from __future__ import annotations

import unicodedata
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from mlx_lm import load, stream_generate
from mlx_lm.sample_utils import make_sampler

from mlx_colbert.ask.language_models.language_model import Finish, Message, quoted
from mlx_colbert.ask.language_models.thinking import without_thinking
from mlx_colbert.errors import CheckpointNotFoundError, LanguageModelError, said
from mlx_colbert.model.hub import snapshot
from mlx_colbert.untrusted import read_json

__all__ = ["InProcess"]

# No *.py: nothing of a checkpoint is run.
_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "model*.safetensors"]
# Tokens, for a model whose settings do not tell.
_DEFAULT_WINDOW = 4096


class InProcess:
    """A language model of mlx-lm.

    Attributes:
        name: the folder or hub id.
        window: how many tokens it can read and write in all.
    """

    def __init__(self, path_or_hub_id: str, *, window: int | None = None) -> None:
        """Load a model. Nothing in its folder is run.

        Args:
            path_or_hub_id: a folder that mlx-lm can load, or a hub id, which is downloaded.
            window: how many tokens it may read and write in all. None: what its settings say.

        Raises:
            LanguageModelError: if there is no such model, or mlx-lm cannot load it.
        """
        self.name = path_or_hub_id
        folder = Path(path_or_hub_id)
        if not folder.is_dir():
            try:
                folder = snapshot(path_or_hub_id, _FILES)
            except CheckpointNotFoundError as error:
                raise LanguageModelError(path_or_hub_id, error.problems[0]) from error.__cause__
        try:
            config = read_json(folder / "config.json")
            if "model_file" in config:
                raise ValueError("its config.json asks to run a Python file, which is refused")
            # A tokenizer that needs its own code is an error too, and not a question on the terminal.
            self._model, self._tokenizer = load(str(folder), {"trust_remote_code": False})[:2]
        # mlx-lm and transformers raise errors of any kind for a checkpoint that they do not know.
        except Exception as error:
            raise LanguageModelError(path_or_hub_id, f"mlx-lm cannot load it: {said(error)}.") from error
        self.window: int = window or _window(config)
        added: dict[str, int] = self._tokenizer.get_added_vocab()
        special: list[str] = self._tokenizer.all_special_tokens
        # Words, single signs and spaces steer nothing: a padding token may be "!".
        self._control = {
            token
            for token in {*special, *(token for token in added if token[:1] in "<[")}
            if len(token) > 1 and not token.isalnum() and not token.isspace()
        }
        control_ids: list[int] = self._tokenizer.convert_tokens_to_ids(sorted(self._control))
        self._control_ids = set(control_ids) - {self._tokenizer.unk_token_id}

    def count(self, messages: Sequence[Message]) -> int:
        """The number of tokens of the messages, with those of the chat template."""
        return len(self._read(messages)[0])

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> Generator[str, None, Finish]:
        """The pieces of the answer, while the model writes them.

        Raises:
            LanguageModelError: if mlx-lm fails, for example because there is not enough memory.
        """
        ids, is_thinking = self._read(messages)
        return without_thinking(self._pieces(ids, max_tokens, temperature), is_inside=is_thinking)

    def _pieces(self, ids: list[int], max_tokens: int, temperature: float) -> Generator[str, None, Finish]:
        finish: Finish = "length"
        sampler = make_sampler(temp=temperature)
        try:
            for part in stream_generate(
                self._model, self._tokenizer, ids, max_tokens=max_tokens, sampler=sampler
            ):
                if part.finish_reason == "stop":
                    finish = "stop"
                if part.text:
                    yield part.text
        # mlx raises RuntimeError and others.
        except Exception as error:
            raise LanguageModelError(self.name, f"mlx-lm failed: {said(error)}.") from error
        return finish

    def _read(self, messages: Sequence[Message]) -> tuple[list[int], bool]:
        """The tokens of the messages, and whether they end where the model begins to think."""
        tame = [
            Message(role=message["role"], content=self._quoted(message["content"])) for message in messages
        ]
        tokenizer = self._tokenizer
        if not tokenizer.has_chat_template:
            text = "\n\n".join(message["content"] for message in tame) + "\nAnswer:"
            return list(tokenizer.encode(text)), False
        try:
            text = self._rendered(tame)
        # A template may raise anything.
        except Exception as error:
            if tame[0]["role"] != "system":
                raise LanguageModelError(self.name, f"its chat template fails: {said(error)}.") from error
            # Some templates know no system message.
            try:
                text = self._rendered(_without_system(tame))
            except Exception as again:
                raise LanguageModelError(self.name, f"its chat template fails: {said(again)}.") from again
        return list(tokenizer.encode(text, add_special_tokens=False)), text.rstrip().endswith("<think>")

    def _rendered(self, messages: Sequence[Message]) -> str:
        # Without enable_thinking=False, Qwen3 first writes a long reasoning. Other models ignore the setting.
        text: str = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        return text

    def _quoted(self, text: str) -> str:
        """The text without any control token, whatever the tokenizer makes of its characters."""
        text = quoted(text, self._control)
        if not self._has_control(text):
            return text
        # A tokenizer may make control tokens of other forms of their characters.
        text = quoted(unicodedata.normalize("NFKC", text), self._control)
        return text if not self._has_control(text) else text.translate(str.maketrans("<>[]|", "     "))

    def _has_control(self, text: str) -> bool:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return not self._control_ids.isdisjoint(ids)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system message at the beginning of the last one, which has the sources."""
    system, *others, last = messages
    return [*others, Message(role=last["role"], content=f"{system['content']}\n\n{last['content']}")]


def _window(config: dict[str, Any]) -> int:
    inner = config.get("text_config")
    for settings in (config, inner if isinstance(inner, dict) else {}):
        found = settings.get("max_position_embeddings")
        if isinstance(found, int) and found > 0:
            return found
    return _DEFAULT_WINDOW
