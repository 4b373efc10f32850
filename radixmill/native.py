"""SGLang's offline Engine, by its names: `Engine(model_path=…).generate(…)` gives the dicts that POST /generate gives.

with Engine(model_path="smollm2") as llm:
    print(llm.generate("Once upon a time", {"max_new_tokens": 32, "temperature": 0})["text"])
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from radixmill.cli import build
from radixmill.compat import FLAGS, tree_of
from radixmill.core.config import Config, walk
from radixmill.core.errors import BadRequest
from radixmill.front.api.explain import explain, unsound
from radixmill.front.session.info import model_info, server_info
from radixmill.front.session.native import Answers, GenerateBody, Item, start, to_items
from radixmill.front.session.native.items import is_batch
from radixmill.llm import Offline, anext_of

T = TypeVar("T")
Said = dict[str, Any]


class Engine(Offline):
    """A model in an engine process of its own. Use as a context manager, or call `shutdown`."""

    def __init__(self, model_path: str = "smollm2-135m-instruct", **settings: Any) -> None:
        """`settings`: SGLang's flags as keywords (context_length=4096, max_running_requests=8), or fields of core.config.

        Raises CannotStart where a setting can't be kept, or the model can't be found or loaded.
        """
        super().__init__(_config({"log_level": "error", **settings, "model_path": model_path}))

    def generate(
        self,
        prompt: str | list[str] | None = None,
        sampling_params: Said | list[Said] | None = None,
        input_ids: list[int] | list[list[int]] | None = None,
        *,
        stream: bool = False,
        **more: Any,
    ) -> Any:
        """Continue a prompt, or each of a list; a dict, or a list of dicts for a list or n > 1.

        `stream`: an iterator of dicts, each with all that a choice has said so far; those of a list have its `index`.
        `more`: return_logprob, logprob_start_len, top_logprobs_num, token_ids_logprob, rid and what else /generate takes.
        Raises BadRequest.
        """
        body = _body(prompt, sampling_params, input_ids, more)
        items = to_items(body)
        if stream:
            return self.iterate(self._chunks(body, items))
        return self.call(self._whole(body, items))

    async def async_generate(
        self,
        prompt: str | list[str] | None = None,
        sampling_params: Said | list[Said] | None = None,
        input_ids: list[int] | list[list[int]] | None = None,
        *,
        stream: bool = False,
        **more: Any,
    ) -> Any:
        """`generate` for an event loop of the caller's; with `stream` an async iterator."""
        body = _body(prompt, sampling_params, input_ids, more)
        items = to_items(body)
        if stream:
            return self._from_outside(self._chunks(body, items))
        return await self._over_there(self._whole(body, items))

    def flush_cache(self) -> dict[str, Any]:
        """Forget all prefixes that nothing running holds."""
        return self.call(self._client.control("flush_cache"))

    def get_server_info(self) -> dict[str, Any]:
        """What GET /server_info tells."""
        return {**server_info(self.front), "internal_states": [self.stats()]}

    def get_model_info(self) -> dict[str, Any]:
        """What GET /model_info tells."""
        return model_info(self.front)

    def shutdown(self) -> None:
        """End the engine. Idempotent."""
        self.close()

    async def _whole(self, body: GenerateBody, items: Sequence[Item]) -> Said | list[Said]:
        batch = await start(self.session, items)
        try:
            answers = Answers(items, batch, self.session.text.token_bytes)
            async for events in batch:
                answers.push(events)
            found = [msgspec.to_builtins(answers.answer(choice)) for choice in range(len(answers.said))]
        finally:
            batch.close()
        return found if _is_list(body, items) else found[0]

    async def _chunks(self, body: GenerateBody, items: Sequence[Item]) -> AsyncGenerator[Said, None]:
        batch = await start(self.session, items)
        try:
            incremental = body.incremental_streaming_output or self.config.server.incremental_streaming_output
            answers = Answers(items, batch, self.session.text.token_bytes, incremental=incremental)
            numbered = _is_list(body, items)
            async for events in batch:
                for choice in answers.push(events):
                    said = msgspec.to_builtins(answers.answer(choice))
                    yield {**said, "index": choice} if numbered else said
        finally:
            batch.close()

    async def _from_outside(self, chunks: AsyncGenerator[Said, None]) -> AsyncIterator[Said]:
        """An async generator that lives on our loop, from the caller's."""
        try:
            while (chunk := await self._over_there(anext_of(chunks))) is not None:
                yield chunk
        finally:
            await self._over_there(chunks.aclose())

    async def _over_there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _is_list(body: GenerateBody, items: Sequence[Item]) -> bool:
    return is_batch(body) or items[0].ask.n > 1


def _body(prompt: Any, sampling_params: Any, input_ids: Any, more: dict[str, Any]) -> GenerateBody:
    """The arguments as /generate's body. Raises TypeError for an unknown one, BadRequest for a bad one."""
    if odd := sorted(set(more) - set(GenerateBody.__struct_fields__)):
        raise TypeError(f"generate() got an unexpected argument {odd[0]!r}")
    given = {"text": prompt, "sampling_params": sampling_params, "input_ids": input_ids, **more}
    plain = msgspec.to_builtins(given)
    if fault := unsound(plain) or explain(plain, inspect.type_info(GenerateBody)):
        raise BadRequest(f"{fault.path} {fault.message}.", param=fault.path)
    return msgspec.convert(plain, GenerateBody)


def _config(settings: dict[str, Any]) -> Config:
    """Keywords are SGLang's flags, else our settings by their own name."""
    flags = {_keyword(name): flag for flag in FLAGS for name in flag.names}
    ours = {path[-1]: path for path, _, _ in walk(Config)}
    given: dict[str, Any] = {}
    tree: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if flag := flags.get(name):
            if value is not None and not (flag.switch and value is False):
                given[flag.names[0]] = [value] if flag.many and isinstance(value, str) else value
        elif name in ours:
            tree.setdefault(ours[name][0], {})[name] = value
        else:
            raise TypeError(f"Engine() got an unexpected setting {name!r}; see docs/flags.md")
    for section, values in tree_of(given).items():
        tree.setdefault(section, {}).update(values)
    return build(tree)


def _keyword(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
