"""What each field of a request means, whose it is, and what holds where it is not given: one entry for all routes that
share it. `/openapi.json` and docs/api.md show it; a test compares the table with the bodies.

A key is a field's name, or `Struct.field` where one name means different things.
"""

from __future__ import annotations

from typing import NamedTuple

from radixmill.front.api.rows import Row


class Meaning(NamedTuple):
    text: str
    default: str = ""  # in words, where the struct's own default does not say it
    origin: str = "OpenAI"  # whose extension it is on routes that are not its own API's


SERVER = "the model's `generation_config.json`, else neutral"


def openai(text: str, default: str = "") -> Meaning:
    return Meaning(text, default)


def sglang(text: str, default: str = "") -> Meaning:
    return Meaning(text, default, "SGLang")


def vllm(text: str, default: str = "") -> Meaning:
    return Meaning(text, default, "vLLM")


def both(text: str, default: str = "") -> Meaning:
    return Meaning(text, default, "SGLang, vLLM")


def anthropic(text: str, default: str = "") -> Meaning:
    return Meaning(text, default, "Anthropic")


def ours(text: str, default: str = "") -> Meaning:
    return Meaning(text, default, "RadixMill")


SAMPLING: dict[str, Meaning] = {
    "temperature": openai("divides the logits; 0 takes the most likely token", SERVER),
    "top_p": openai("keeps the most likely tokens that together have this probability; 0 is greedy", SERVER),
    "top_k": both("keeps this many of the most likely tokens; −1 and 0 keep all", SERVER),
    "min_p": both("keeps tokens at least this likely, relative to the most likely one", SERVER),
    "presence_penalty": openai("lowers the logits of tokens that the output has already", "0"),
    "frequency_penalty": openai("lowers the logit of a token for each time the output has it", "0"),
    "repetition_penalty": both("divides or multiplies the logits of tokens in prompt and output", SERVER),
    "logit_bias": openai("added to logits: token id in decimal → value"),
    "seed": openai("same seed, same text, whatever else runs; returned, also when drawn here", "drawn, 53 bits"),
    "min_tokens": both("no end token and no stop string counts before this many tokens", "0"),
    "max_tokens": openai("the most tokens to generate", "to the end of the context"),
    "max_completion_tokens": openai("the same as `max_tokens`, and wins over it", "to the end of the context"),
    "CompletionBody.max_tokens": openai("the most tokens to generate; 0 answers at once with no text", "16"),
    "stop": openai("texts that end the answer; left out of it", "none"),
    "stop_token_ids": both("tokens that end the answer, besides the model's own end tokens"),
    "ignore_eos": both("the model's own end tokens end nothing", "false"),
    "skip_special_tokens": both("control tokens are left out of the text", "true"),
    "no_stop_trim": sglang("what ended the text is left in it", "false"),
    "n": openai("answers to give to each prompt, forks of one prefill", "1"),
    "best_of": openai(
        "sequences to run for each prompt, of which the `n` likeliest are returned; not with `stream`", "`n`"
    ),
    "logprobs": openai("whether the answer carries each token's log probability", "false"),
    "CompletionBody.logprobs": openai("log probabilities of each token and of this many of the most likely", "none"),
    "top_logprobs": openai("how many of the most likely tokens `logprobs` shows at each place; needs `logprobs`", "0"),
}

COMMON: dict[str, Meaning] = {
    "model": openai("a served name, or `default`; any other is a 404", "`default`"),
    "stream": openai("answer with server-sent events as tokens come", "false"),
    "timeout": both(
        "seconds the whole request may take, waiting included; then 408, or an error event in a stream",
        "`--max-running-time`",
    ),
    "stream_options": openai("only with `stream`"),
    "StreamOptions.include_usage": openai("a last chunk with `usage` and no choices", "false"),
    "StreamOptions.continuous_usage_stats": vllm("`usage` on every chunk", "false"),
    "include_obfuscation": openai("padding is never sent"),
    "return_token_ids": vllm("choices carry `token_ids` and `prompt_token_ids`", "false"),
    "priority": both("higher runs first", "0"),
    "cache_salt": vllm("keeps the prefix cache of this request apart: only equal salts share", "none"),
    "record": ours(
        "the answer's end carries its `record`, for `radixmill replay`: [receipts.md](receipts.md)", "false"
    ),
    "receipt": ours("the answer's end carries a signed `receipt`: [receipts.md](receipts.md)", "false"),
    "rid": sglang("the request's id: the handle for `/abort_request`, and a part of the answer's id", "made"),
    "prompt": openai("text, texts, token ids, or lists of token ids"),
    "parse_special": ours("control tokens that are written in the prompt count as such", "true"),
    "echo": openai("the prompt stands before the answer, also in `logprobs`", "false"),
    "suffix": openai("what comes behind the gap that the answer fills; for models with fill-in-the-middle tokens"),
}

CHAT: dict[str, Meaning] = {
    "messages": openai("the conversation, oldest first"),
    "add_generation_prompt": both("a new message of the assistant begins behind the conversation", "true"),
    "continue_final_message": both("the answer goes on with the last message, the assistant's", "false"),
    "chat_template_kwargs": both("variables for the chat template"),
    "Part.thinking": both("earlier thoughts, as text or as a list of text parts; for parts of type `thinking`"),
    "ThoughtPart.type": both("`text`"),
    "ThoughtPart.text": both("the text"),
    "documents": vllm(
        "texts to answer from, objects like `{title, text}`; for chat templates that have a place for them"
    ),
    "chat_template": vllm(
        "a template instead of the model's own; also in `chat_template_kwargs`; needs `--trust-request-chat-template`"
    ),
    "reasoning_effort": openai("how long to think; a variable for the chat template"),
    "verbosity": openai("how much to say; a variable for the chat template"),
    "separate_reasoning": sglang("thoughts stand in `reasoning_content`; false leaves them in the content", "true"),
    "max_thinking_tokens": sglang(
        "behind so many tokens of thoughts their closing tag is forced; nothing for models without thoughts", "no limit"
    ),
    "ReasoningOptions.max_tokens": sglang("the same as `max_thinking_tokens`", "no limit"),
    "ChatBody.custom_params": sglang("its `thinking_budget` counts, nothing else"),
    "stream_reasoning": sglang("thoughts are streamed as they come; false sends them in one piece", "true"),
    "tools": openai("functions that the model may call"),
    "tool_choice": openai("whether, or which, tool must be called", "`auto` with tools, else `none`"),
    "parallel_tool_calls": openai("more than one call in an answer", "true"),
    "functions": openai("deprecated: `tools`"),
    "function_call": openai("deprecated: `tool_choice`"),
    "modalities": openai("`text` is the only one"),
    "store": openai("keep the answer for a while, to be retrieved by its id", "false"),
}

CONSTRAINTS: dict[str, Meaning] = {
    "response_format": openai("what the answer must be: text, JSON, JSON by a schema, or a structural tag", "text"),
    "regex": sglang("a regular expression that the whole answer matches"),
    "ebnf": sglang("a grammar in GBNF that the answer matches"),
    "json_schema": sglang("a JSON Schema, as text, that the answer matches"),
    "guided_json": vllm("a JSON Schema that the answer matches"),
    "guided_regex": vllm("a regular expression that the whole answer matches"),
    "guided_choice": vllm("texts of which the answer is one"),
    "guided_grammar": vllm("a grammar that the answer matches"),
    "structured_outputs": vllm("one of `json`, `json_object`, `regex`, `choice`, `grammar`, `structural_tag`"),
}

TOOLS: dict[str, Meaning] = {
    "ToolBody.type": openai("`function` or `custom`; others are refused by name"),
    "ToolBody.function": openai("a tool whose arguments are JSON"),
    "ToolBody.custom": openai("a tool whose input is text"),
    "FunctionBody.name": openai("what calls name"),
    "FunctionBody.description": openai("what the function does"),
    "FunctionBody.parameters": openai("JSON Schema of the arguments", "no arguments"),
    "FunctionBody.strict": openai("the arguments match the schema, always", "false"),
    "CustomBody.name": openai("what calls name"),
    "CustomBody.description": openai("what the tool does"),
    "CustomBody.format": openai("what the input must be", "any text"),
    "InputFormat.type": openai("any text, or text by a grammar"),
    "InputFormat.grammar": openai("the grammar"),
    "GrammarBody.definition": openai("the grammar itself"),
    "GrammarBody.syntax": openai("the language it is written in; `lark` is refused"),
    "ChoiceBody.type": openai("the kind of choice"),
    "ChoiceBody.function": openai("the function that must be called"),
    "ChoiceBody.custom": openai("the custom tool that must be called"),
    "ChoiceBody.allowed_tools": openai("the tools that may be called"),
    "AllowedTools.mode": openai("may, or must, one be called"),
    "AllowedTools.tools": openai("the tools, by name"),
    "AllowedTool.type": openai("the kind of tool"),
    "AllowedTool.function": openai("the function"),
    "AllowedTool.custom": openai("the custom tool"),
    "Named.name": openai("its name"),
    "ChatBody.reasoning": sglang("how long to think, as OpenRouter says it"),
    "ReasoningOptions.enabled": sglang("whether to think at all; variables of the chat template", "the template's"),
}

FORMATS: dict[str, Meaning] = {
    "ResponseFormat.type": openai("`text`, `json_object`, `json_schema`, or SGLang's `structural_tag`"),
    "ResponseFormat.json_schema": openai("for `json_schema`"),
    "ResponseFormat.schema": openai("older: the JSON Schema of `json_object`"),
    "ResponseFormat.format": sglang("for `structural_tag`: its format"),
    "ResponseFormat.structures": sglang("for `structural_tag`, the older form: what stands between which tags"),
    "ResponseFormat.triggers": sglang("for `structural_tag`, the older form: texts at which a structure begins"),
    "JsonSchemaFormat.name": openai("a name for the schema"),
    "JsonSchemaFormat.description": openai("what the schema is for"),
    "JsonSchemaFormat.schema": openai("the JSON Schema", "any object"),
    "JsonSchemaFormat.strict": openai("a schema is always enforced"),
    "StructuredOutputs.json": vllm("a JSON Schema"),
    "StructuredOutputs.json_object": vllm("any JSON object", "false"),
    "StructuredOutputs.regex": vllm("a regular expression"),
    "StructuredOutputs.choice": vllm("texts of which the answer is one"),
    "StructuredOutputs.grammar": vllm("a grammar"),
    "StructuredOutputs.structural_tag": vllm("a structural tag, as JSON text"),
}

HINTED: dict[str, Meaning] = {
    "user": openai("who asks"),
    "safety_identifier": openai("who asks"),
    "prompt_cache_key": openai("prefixes are found without it"),
    "prompt_cache_retention": openai("prefixes stay as long as there is room"),
    "prompt_cache_options": openai("prefixes are found without it"),
    "prediction": openai("text that the answer is likely to repeat"),
    "service_tier": openai("there is one; echoed as `default`"),
    "metadata": openai("echoed"),
}

REFUSED: dict[str, Meaning] = {
    "audio": openai("answers are text"),
    "web_search_options": openai("there is no search here"),
    "moderation": openai("there is no moderation here"),
    "stop_regex": sglang("a regular expression that ends the answer"),
    "lora_path": sglang("an adapter"),
}

MESSAGES: dict[str, Meaning] = {
    "Message.role": openai("who speaks"),
    "Message.content": openai("text, or parts of type `text`"),
    "Message.name": openai("a name for the template"),
    "Message.tool_calls": openai("calls that the assistant made"),
    "Message.tool_call_id": openai("the call that this is the result of"),
    "Message.refusal": openai("stands for missing content"),
    "Message.reasoning_content": both("earlier thoughts, for templates that read them"),
    "Message.reasoning": both("the same as `reasoning_content`"),
    "Message.function_call": openai("deprecated: one of `tool_calls`"),
    "Message.annotations": openai("ignored"),
    "Message.audio": openai("refused"),
    "Part.type": openai("`text`; others are refused by name"),
    "Part.text": openai("the text"),
    "Part.refusal": openai("the text of a part of type `refusal`"),
    "Part.prompt_cache_breakpoint": openai("ignored: prefixes are found without it"),
    "ToolCall.id": openai("what `tool_call_id` of the result names"),
    "ToolCall.type": openai("which of the two", "`function`"),
    "ToolCall.function": openai("the function and its arguments"),
    "ToolCall.custom": openai("the custom tool and its input"),
    "ToolCall.index": openai("ignored"),
    "FunctionCall.name": openai("the function"),
    "FunctionCall.arguments": openai("JSON, as text"),
    "CustomCall.name": openai("the tool"),
    "CustomCall.input": openai("text"),
}

RESPONSES: dict[str, Meaning] = {
    "ResponseBody.input": openai(
        "text, or items: messages, calls and their outputs, thoughts, references to earlier items"
    ),
    "PromptBody.input": openai(
        "text, or items: messages, calls and their outputs, thoughts, references to earlier items"
    ),
    "instructions": openai("a system message before the conversation; not kept for the next response"),
    "previous_response_id": openai("a kept response whose conversation this one goes on with"),
    "ResponseBody.model": openai("a served name, or `default`; any other is a 404", "`default`"),
    "PromptBody.model": openai("a served name, or `default`; any other is a 404", "`default`"),
    "max_output_tokens": openai("the most tokens to generate, thoughts too", "to the end of the context"),
    "truncation": openai("`auto` drops the oldest items of a conversation that is too long", "`disabled`"),
    "text": openai("what the text must be"),
    "TextOptions.format": openai("text, JSON, or JSON by a schema", "text"),
    "Format.type": openai("which of them"),
    "Format.name": openai("a name for the schema"),
    "Format.description": openai("what the schema is for"),
    "Format.schema": openai("the JSON Schema"),
    "Format.strict": openai("a schema is always enforced"),
    "reasoning": openai("how to think"),
    "ReasoningOptions.effort": openai("how long; the same as `reasoning_effort` in chat"),
    "ReasoningOptions.summary": openai("thoughts come whole"),
    "ReasoningOptions.generate_summary": openai("deprecated: `summary`"),
    "ReasoningOptions.context": openai("which thoughts of earlier turns the model sees", "`auto`"),
    "ReasoningOptions.mode": openai("`standard` is the only one"),
    "ToolChoice.type": openai("the kind of choice, or of tool"),
    "ToolChoice.name": openai("the tool that must be called"),
    "ToolChoice.mode": openai("of allowed tools: may, or must, one be called"),
    "ToolChoice.tools": openai("the allowed tools"),
    "background": openai("answer at once, and go on; the response is found under its id", "false"),
    "include": openai(
        "more in the answer; `message.output_text.logprobs` is honoured, the others have nothing to show"
    ),
    "ResponseBody.store": openai("keep the response for a while, to be retrieved by its id", "true"),
    "request_id": vllm("the same as `rid`"),
    "max_tool_calls": openai("counts calls of hosted tools, of which there are none"),
    "conversation": openai("use `previous_response_id`"),
    "personality": openai("use `instructions`"),
    "ResponseBody.prompt": openai("a stored template of prompts; none are stored here"),
    "ResponseBody.context_management": openai("use `truncation`"),
}

ANTHROPIC: dict[str, Meaning] = {
    "MessagesBody.max_tokens": anthropic("the most tokens to generate"),
    "system": anthropic("what stands before the conversation"),
    "stop_sequences": anthropic("texts that end the answer; left out of it", "none"),
    "thinking": anthropic("whether to think, and how long", "the template's"),
    "Thinking.type": anthropic("think, or not"),
    "budget_tokens": anthropic(
        "behind so many tokens of thoughts their closing tag is forced; also `thinking_budget` of the chat template; less "
        "than `max_tokens`"
    ),
    "Thinking.display": anthropic(
        "`omitted` leaves the text of thoughts out of the answer", "`summarized`, which is whole"
    ),
    "output_config": anthropic("how long to think, and what the answer must be"),
    "OutputConfig.effort": anthropic("`reasoning_effort` of the chat template"),
    "OutputConfig.format": anthropic("a JSON Schema that the answer matches"),
    "output_format": anthropic("older: `output_config.format`"),
    "JsonFormat.type": anthropic("`json_schema`"),
    "JsonFormat.schema": anthropic("the JSON Schema"),
    "ToolChoice.disable_parallel_tool_use": anthropic("at most one call in an answer", "false"),
    "cache_control": anthropic("every prompt is cached here"),
    "CacheControl.type": anthropic("every prompt is cached here"),
    "CacheControl.ttl": anthropic("prefixes stay as long as there is room"),
    "speed": anthropic("there is one"),
    "user_profile_id": anthropic("who asks"),
    "Metadata.user_id": anthropic("who asks"),
    "inference_geo": anthropic("there is one place"),
    "diagnostics": anthropic("the server has its own"),
    "container": anthropic("there are no containers here"),
    "mcp_servers": anthropic("there are no MCP servers here"),
    "context_management": anthropic("the conversation is taken as it is"),
    "thread": anthropic("conversations are sent whole; the official client does so when this is refused"),
    "Turn.role": anthropic("who speaks"),
    "Turn.content": anthropic("text, or blocks"),
    "TextBlock.type": anthropic("`text`; others are refused by name"),
    "TextBlock.text": anthropic("the text"),
    "citations": anthropic("ignored"),
    "Block.type": anthropic("`text`, `thinking`, `tool_use` or `tool_result`; others are refused by name"),
    "Block.text": anthropic("the text of a `text` block"),
    "Block.thinking": anthropic("earlier thoughts"),
    "Block.signature": anthropic("ignored: nothing is signed here"),
    "Block.id": anthropic("the id of a `tool_use`"),
    "Block.name": anthropic("the tool of a `tool_use`"),
    "Block.input": anthropic("the arguments of a `tool_use`"),
    "caller": anthropic("ignored"),
    "toolset_name": anthropic("ignored"),
    "tool_use_id": anthropic("the `tool_use` that this is the result of"),
    "Block.content": anthropic("the result"),
    "is_error": anthropic("the tool failed", "false"),
    "ToolSpec.type": anthropic("`custom`; tools that run on a server are refused by name", "`custom`"),
    "ToolSpec.name": anthropic("what calls name"),
    "ToolSpec.description": anthropic("what the tool does"),
    "input_schema": anthropic("JSON Schema of the arguments"),
    "ToolSpec.strict": anthropic("the arguments match the schema, always", "false"),
    "input_examples": anthropic("shown to the model as the schema's `examples`"),
    "eager_input_streaming": anthropic("arguments are streamed as they come"),
    "defer_loading": anthropic("refused if true"),
    "allowed_callers": anthropic("ignored"),
}

TOKENS: dict[str, Meaning] = {
    "add_special_tokens": vllm("begin and end tokens are put where the model wants them"),
    "tokens": vllm("token ids, or lists of them"),
    "SeparateBody.text": sglang("a model's raw text; it begins within thoughts if they close before they open"),
    "reasoning_parser": sglang("who reads it: a name of `--reasoning-parser`, or `auto`", "the served model's"),
    "return_blocks": sglang("also list each thought and each text, apart and in their order"),
    "ParseBody.text": sglang("a model's raw text, thoughts included"),
    "ParseBody.tools": sglang("the tools that may be called; what is no call of theirs stays text"),
    "tool_call_parser": sglang("who reads it: a name of `--tool-call-parser`, or `auto`", "the served model's"),
    "AbortBody.rid": sglang("requests whose id begins so are stopped"),
    "abort_all": sglang("all requests are stopped"),
    "ReloadBody.model": ours(
        "a folder, a .gguf file, a hub id or a short name of the catalogue", "the one that is served, read again"
    ),
    "mode": ours(
        "`beside`: the new model loads while the old one serves; `drain`: nothing new is taken, what runs finishes, then the"
        " new one loads in its place",
    ),
    "model_path": sglang("the model, as `model` of `/admin/reload`"),
}

NATIVE: dict[str, Meaning] = {
    "GenerateBody.text": sglang("a prompt, or a batch of them; or `input_ids`"),
    "input_ids": sglang("token ids, or a batch of lists of them; or `text`"),
    "sampling_params": sglang(
        "how to continue; in a batch one object for all, or one for each prompt. Unknown keys are 400"
    ),
    "max_new_tokens": sglang("the most tokens to generate; null: to the end of the context; 0: only the prompt", "128"),
    "min_new_tokens": sglang("no end token and no stop string counts before this many tokens", "0"),
    "sampling_seed": sglang("the same as `seed`, which wins over it", "drawn, 53 bits"),
    "spaces_between_special_tokens": sglang("nothing to decide: no token here gets spaces put around it", "true"),
    "SamplingBody.json_schema": sglang("a JSON Schema, as text or object, that the answer matches"),
    "structural_tag": sglang("a structural tag, as text or object, that the answer matches"),
    "beam_width": sglang("beam search"),
    "stream_interval": sglang("tokens between chunks of a stream: each is sent as it comes"),
    "custom_params": sglang("what a logit processor reads; one is built in, and others are refused by name"),
    "CustomParams.thinking_budget": sglang("the same as `max_thinking_tokens`"),
    "watermark": sglang("a watermark"),
    "GenerateBody.rid": sglang(
        "the request's id, the handle for `/abort_request`; in a batch one for each, or one that `_0` … is put behind",
        "made",
    ),
    "incremental_streaming_output": ours(
        "chunks of a stream tell what is new, instead of all so far", "`--incremental-streaming-output`, false"
    ),
    "return_logprob": sglang("`meta_info` has log probabilities", "false"),
    "logprob_start_len": sglang("the first prompt token whose log probability is wanted; −1: only the output's", "−1"),
    "top_logprobs_num": sglang("how many of the most likely tokens are told at each place", "0"),
    "token_ids_logprob": sglang(
        "tokens whose log probability is told at each place; in a batch perhaps a list for each"
    ),
    "return_text_in_logprobs": sglang("their texts too, else null", "false"),
    "return_prompt_token_ids": sglang("the answer has `prompt_token_ids`", "false"),
    "extra_key": sglang("as `cache_salt`; with both, both count", "none"),
    "input_embeds": sglang("vectors in place of tokens"),
    "image_data": sglang("images"),
    "video_data": sglang("videos"),
    "audio_data": sglang("sound"),
    "session_params": sglang("a session's state"),
    "session_id": sglang("a session"),
    "custom_logit_processor": sglang("code; requests never carry any"),
    "return_hidden_states": sglang("activations"),
    "return_routed_experts": sglang("which experts were used"),
    "return_indexer_topk": sglang("what sparse attention looked at"),
    "return_sampling_mask": sglang("which tokens could be drawn"),
    "return_entropy": sglang("the entropy of each distribution"),
    "return_bytes": sglang("tokens as bytes"),
    "sampling_logprobs_mode": sglang("which log probabilities: they are always the model's own"),
    "require_reasoning": sglang("the text begins within thoughts, and a grammar behind them", "false"),
    "GenerateBody.max_thinking_tokens": sglang(
        "as in chat; counted where the text begins with thoughts or the prompt ends within them", "no limit"
    ),
    "bootstrap_host": sglang("another process that computed the prompt"),
    "bootstrap_port": sglang("the same"),
    "bootstrap_room": sglang("the same"),
}

MEANINGS: dict[str, Meaning] = {
    **SAMPLING,
    **COMMON,
    **CHAT,
    **CONSTRAINTS,
    **TOOLS,
    **FORMATS,
    **HINTED,
    **REFUSED,
    **MESSAGES,
    **RESPONSES,
    **ANTHROPIC,
    **TOKENS,
    **NATIVE,
}


def meaning(row: Row) -> Meaning | None:
    """What a field means; by the object it stands in where that matters."""
    name = row.field.encode_name
    return MEANINGS.get(f"{row.owner.__name__}.{name}") or MEANINGS.get(name)
