"""Pre-tokenizers of byte-level BPE vocabularies, by the name that GGUF files give them (`tokenizer.ggml.pre`).

Each is a list of patterns: the text is cut by the first, the pieces by the next, and so on; what lies between matches
stays as pieces of its own. The patterns are those of the models' own tokenizer.json files, in Oniguruma's syntax.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CAMEL = (rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+", rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*")

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_TEKKEN = rf"{_CAMEL[0]}|{_CAMEL[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_CAMEL[0]}{_CONTRACTIONS}?|{_CAMEL[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]*[{_LOWER}&&[^\p{{Han}}]]+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]+[{_LOWER}&&[^\p{{Han}}]]*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES
)
_SENTENCE = r" ?[^(\s|.,!?…。，、।۔،)]+"


def _ranges(spec: str) -> str:
    """`41-5A B5` → the inside of a character class."""
    return "".join("-".join(rf"\x{{{end}}}" for end in part.split("-")) for part in spec.split())


# Letters with case, as DeepSeek's first tokenizer lists them.
_CASED = _ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_MARKS = _ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002")
_CJK = _ranges("4E00-9FA5 800-4E00 AC00-D7FF")
# `\s+$` as its makers wrote it takes quadratic time on long runs of spaces; this finds the same.
_LAST_SPACES = r"(?<!\s)\s++$"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one family cuts text. `whole_words`: a piece that is a token is taken without merging. `adds_bos`: where the
    file doesn't say. `nfc`: text is normalised to Unicode's form C first."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False
    nfc: bool = False

    def pre_tokenizer(self) -> PreTokenizer:
        cuts: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])


DEFAULT = Rule((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

_FAMILIES: tuple[tuple[str, Rule], ...] = (
    ("default", DEFAULT),
    (
        "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe gigachat a.x-4.0 mellum "
        "modern-bert exaone4 mpt olmo jais trillion granite-docling",
        Rule((_GPT2,)),
    ),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        Rule((_LLAMA3,), whole_words=True, adds_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", Rule((_LLAMA3,))),
    ("glm4 glm5", Rule((_LLAMA3,), whole_words=True)),
    ("qwen2", Rule((_QWEN2,), nfc=True)),
    ("deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2", Rule((_QWEN2,))),
    ("qwen35", Rule((_QWEN35,), nfc=True)),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b", Rule((r"\p{N}", _GPT2))),
    (
        "deepseek-llm",
        Rule((r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_MARKS}]+", _LAST_SPACES, rf"[{_CJK}]+", r"\p{N}")),
    ),
    ("deepseek-coder", Rule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", rf"[{_CJK}]+", r"\p{N}"))),
    (
        "deepseek-v3 hunyuan-dense joyai-llm",
        Rule((r"\p{N}{1,3}", rf"[{_ranges('4E00-9FA5 3040-309F 30A0-30FF')}]+", _DEEPSEEK3)),
    ),
    ("falcon", Rule((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    ("tekken", Rule((_TEKKEN,), whole_words=True, adds_bos=True)),
    ("gpt-4o llama4 kanana2 minimax-m2", Rule((_GPT4O,))),
    ("tiny_aya", Rule((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))),
    ("kimi-k2", Rule((_KIMI,))),
    ("bailingmoe bailingmoe2 llada-moe", Rule((_BAILING,))),
    ("seed-coder", Rule((_SEED,))),
    ("poro-chat bloom gpt3-finnish", Rule((_SENTENCE,))),
    ("viking", Rule((_SENTENCE, r"\p{N}"))),
)
RULES: dict[str, Rule] = {name: rule for names, rule in _FAMILIES for name in names.split()}
