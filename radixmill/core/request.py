"""What a client asked for, validated. Only the front makes these; nobody behind it checks them again."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ConstraintKind = Literal["json_schema", "json_object", "regex", "ebnf", "structural_tag"]

_MASK64 = (1 << 64) - 1


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How tokens are drawn. Defaults leave the model's distribution as it is.

    Order on the logits: penalties → bias → grammar mask → temperature → top-k → top-p → min-p, each on the
    renormalised rest; then the inverse CDF over the kept tokens in id order.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # 0 takes the most likely token, the lower id of equals
    top_k: int = 0  # 0: all
    top_p: float = 1.0  # 0 is greedy
    min_p: float = 0.0
    presence_penalty: float = 0.0  # over output tokens
    frequency_penalty: float = 0.0  # over output tokens
    repetition_penalty: float = 1.0  # over prompt and output tokens, as in Hugging Face's generate
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own end tokens
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; k: the chosen token's, and the k most likely
    prompt_logprobs: int | None = None  # the same for tokens of the prompt; one sequence of the request tells them
    prompt_logprobs_from: int = 0  # position of the first of them; nothing is known of what stands at 0
    logprob_ids: tuple[int, ...] = ()  # tokens whose log-probability is told besides, wherever any is

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_p == 0.0 or self.top_k == 1


class Constraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the output must match. Part of the record: the state of the match is rebuilt from it and the output.

    kind             text
    json_schema      a JSON Schema
    json_object      "": any JSON object
    regex            a regular expression; the whole output matches it
    ebnf             a grammar in GBNF, the dialect of EBNF that llama.cpp, XGrammar and SGLang read; its start is `root`
    structural_tag   JSON: `{"type": "structural_tag", "format": …}` of XGrammar, or its older form of triggers
    """

    kind: ConstraintKind
    text: str = ""
    after: str = ""  # the match begins behind the first occurrence of this text in the output; "": at once


class ThinkingBudget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How many tokens of thoughts the output may have; behind the last of them their closing tag is forced.

    They are counted from behind the opening tag, or from the output's beginning where the prompt `opened` them. An
    opening tag counts where only white space stands before it; with `again` also later, and `tokens` is for all thoughts
    together. Where the model ends them earlier, or never begins any, nothing happens. If the last tokens have begun the
    closing tag already, it is completed.

    Part of the record, as constraints are. A tag in `open` or `ends` that is a control token is found by its id alone.
    """

    tokens: int
    close: tuple[int, ...]  # the closing tag as it is forced
    open: str = "<think>"
    ends: tuple[str, ...] = ("</think>",)  # what ends thoughts where the model writes it
    opened: bool = False
    again: bool = False


class GenerateRequest(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One prompt and how to continue it; the constant half of a record."""

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    constraint: Constraint | None = None
    thinking: ThinkingBudget | None = None  # None: thoughts may be as long as they like
    tenant: str = ""  # salts the cache namespace: tenants can't probe each other's prompts
    priority: int = 0  # higher runs first, within the account
    trusted: bool = True  # its priority counts over other accounts' requests too
    account: str = ""  # who pays: tokens are shared out fairly among accounts
    wait: float | None = None  # seconds it may wait for its first step; None: as long as it takes
    adapter: str | None = None
    numerics: str | None = None  # refuse any other numerics id
    arrived: float = 0.0  # seconds since the epoch, at the front
    trace: str | None = None


def splitmix64(x: int) -> int:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014) for state `x`; 64 bits in, 64 bits out."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def choice_seed(seed: int, choice: int) -> int:
    """The seed of choice `choice` (prompt-major) of a request seeded `seed`: the seed itself for the first."""
    return seed & _MASK64 if choice == 0 else splitmix64((seed + choice) & _MASK64)
