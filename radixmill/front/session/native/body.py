"""What POST /generate takes. null means: not given."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Struct, UnsetType

from radixmill.front.session.limits import bounds, size

TokenId = Annotated[int, bounds("token id")]
StopString = Annotated[str, size("stop string")]
Budget = Annotated[int, bounds("max_thinking_tokens")]
Rid = Annotated[str, size("rid")]
TopNumber = Annotated[int, bounds("top_logprobs_num")]
StartLen = Annotated[int, bounds("logprob_start_len")]
NamedIds = Annotated[list[TokenId], size("token_ids_logprob")]


class CustomParams(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of logit processors, as far as one of them is built in here."""

    thinking_budget: Budget | None = None


class SamplingBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """`sampling_params`: SGLang's names. A key that is not here is an error."""

    max_new_tokens: Annotated[int, bounds("max_new_tokens")] | UnsetType | None = UNSET  # null: to the context's end
    min_new_tokens: Annotated[int, bounds("min_tokens")] | None = None
    temperature: Annotated[float, bounds("temperature")] | None = None
    top_p: Annotated[float, bounds("top_p")] | None = None
    top_k: Annotated[int, bounds("top_k")] | None = None
    min_p: Annotated[float, bounds("min_p")] | None = None
    frequency_penalty: Annotated[float, bounds("frequency_penalty")] | None = None
    presence_penalty: Annotated[float, bounds("presence_penalty")] | None = None
    repetition_penalty: Annotated[float, bounds("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, bounds("logit_bias")]], size("logit_bias")] | None = None
    n: Annotated[int, bounds("n")] | None = None
    sampling_seed: Annotated[int, bounds("seed")] | None = None
    seed: Annotated[int, bounds("seed")] | None = None
    stop: StopString | Annotated[list[StopString], size("stop")] | None = None
    stop_token_ids: Annotated[list[TokenId], size("stop_token_ids")] | None = None
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None  # nothing to decide: no token of ours gets spaces put around it
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    custom_params: CustomParams | None = None
    # refused
    stop_regex: Any = None
    beam_width: Any = None
    stream_interval: Any = None
    watermark: Any = None


class GenerateBody(Struct, kw_only=True):
    """The body of POST /generate: one prompt or a batch. In a batch, most fields may be a list with one value for each."""

    text: str | Annotated[list[str], size("prompts")] | None = None
    input_ids: Annotated[list[TokenId | list[TokenId]], size("prompts or ids")] | None = None
    sampling_params: SamplingBody | list[SamplingBody] | None = None
    rid: Rid | list[Rid] | None = None
    stream: bool | None = None
    incremental_streaming_output: bool | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: StartLen | list[StartLen] | None = None
    top_logprobs_num: TopNumber | list[TopNumber] | None = None
    token_ids_logprob: list[TokenId | NamedIds | None] | None = None
    return_text_in_logprobs: bool | None = None
    return_prompt_token_ids: bool | None = None
    parse_special: bool | None = None
    extra_key: str | list[str] | None = None
    cache_salt: str | list[str] | None = None
    priority: Annotated[int, bounds("priority")] | None = None
    record: bool | None = None
    receipt: bool | None = None
    timeout: Annotated[float, bounds("timeout")] | None = None
    require_reasoning: bool | list[bool] | None = None
    max_thinking_tokens: Budget | list[Budget | None] | None = None
    # refused
    input_embeds: Any = None
    image_data: Any = None
    video_data: Any = None
    audio_data: Any = None
    lora_path: Any = None
    session_params: Any = None
    session_id: Any = None
    custom_logit_processor: Any = None
    return_hidden_states: Any = None
    return_routed_experts: Any = None
    return_indexer_topk: Any = None
    return_sampling_mask: Any = None
    return_entropy: Any = None
    return_bytes: Any = None
    sampling_logprobs_mode: Any = None
    watermark: Any = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None


# Refused, and the values (besides null) that ask for nothing; by their place in the body.
REFUSED: dict[str, tuple[Any, ...]] = {
    "sampling_params.stop_regex": ([], ""),
    "sampling_params.beam_width": (1,),
    "sampling_params.stream_interval": (1,),
    "sampling_params.watermark": (False,),
    "watermark": (False,),
    "input_embeds": (),
    "image_data": ([],),
    "video_data": ([],),
    "audio_data": ([],),
    "lora_path": (),
    "session_params": ({},),
    "session_id": (),
    "custom_logit_processor": (),
    "return_hidden_states": (False,),
    "return_routed_experts": (False,),
    "return_indexer_topk": (False,),
    "return_sampling_mask": (False,),
    "return_entropy": (False,),
    "return_bytes": (False,),
    "sampling_logprobs_mode": (),
    "bootstrap_host": (),
    "bootstrap_port": (),
    "bootstrap_room": (),
}
