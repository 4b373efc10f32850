"""From a model's files to its text stack: Hugging Face folders against transformers, GGUF files, templates and their order."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from radixmill.core.errors import BadModel, CannotStart
from radixmill.front.text import TextStack, Tokenizer, load_text
from radixmill.front.text.chat import Guard
from radixmill.front.text.gguf import gguf_vocabulary
from radixmill.front.text.stack import _folder_templates
from radixmill.store import ModelFiles
from tests.front.text_kit import sentencepiece

CORPUS = ["hello world, the hedge held the well", "<s> and </s> are <|im_end|> marks", "être là, 我想在 12345"] * 4
SCRATCH = TemporaryDirectory(prefix="radixmill-text-")  # gone with this process
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
MARK = "\ue000"


def byte_level() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def metaspace(scheme: str) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if scheme == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps if scheme != "never" else steps[:-1])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=360, special_tokens=bytes_, show_progress=False))
    whole = json.loads(made.to_str())
    return tokenizers.Tokenizer.from_str(json.dumps({**whole, "added_tokens": []}))  # bytes are no added tokens


KINDS = {"bytes": byte_level, **{s: (lambda s=s: metaspace(s)) for s in ("first", "always", "never", "legacy")}}


@cache
def folder(kind: str, **config: Any) -> Path:
    """A model folder with a tokenizer of this kind; one of its tokens swallows the spaces around it."""
    made = KINDS[kind]()
    made.add_special_tokens(
        [AddedToken(t, normalized=False, rstrip=t == "<|im_end|>", lstrip=t == "</s>") for t in SPECIAL]
    )
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<｜User｜>", normalized=False)])
    bos = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    root = Path(mkdtemp(dir=SCRATCH.name))
    made.save(str(root / "tokenizer.json"))
    (root / "tokenizer_config.json").write_text(json.dumps({**CONFIG, **config}))
    return root


def load(root: Path, **more: Any) -> TextStack:
    return load_text(ModelFiles("m", root), **more)


stack = cache(lambda kind: load(folder(kind)))

TEXT = st.lists(
    st.sampled_from([*SPECIAL, "<think>", "<｜User｜>", " ", "  ", "hello", " the", "é", "我", "<", "\n"]), max_size=10
).map("".join)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=TEXT)
def test_ids_and_text_as_in_transformers(kind: str, text: str) -> None:
    from transformers import PreTrainedTokenizerFast

    root, ours = folder(kind), stack(kind).tokenizer
    theirs = _once(PreTrainedTokenizerFast, str(root / "tokenizer.json"))
    ids = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, add_special=False) == ids
    assert ours.encode(text) == theirs.encode(text)
    unmarked = text.replace("<｜User｜>", "").replace("<think>", "")  # control to us, not special to transformers
    splitting = _once(PreTrainedTokenizerFast, str(root / "tokenizer.json"), True)
    plain = ours.encode(unmarked, parse_special=False, add_special=False)
    assert plain == splitting.encode(unmarked, add_special_tokens=False)
    assert ours.decode(ids, skip_special=False) == theirs.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids) == theirs.backend_tokenizer.decode(ids, skip_special_tokens=True)


@cache
def _once(cls: Any, file: str, split: bool = False) -> Any:
    return cls(tokenizer_file=file, split_special_tokens=split, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=TEXT)
def test_marked_control_tokens_are_the_control_tokens(kind: str, text: str) -> None:
    """The way around users' literals gives the very same ids where there are none."""
    tokenizer = stack(kind).tokenizer
    assert tokenizer.encode_marked(Guard(tokenizer).resolve(text, MARK), MARK) == tokenizer.encode(
        text, add_special=False
    )


@settings(deadline=None)
@given(text=TEXT)
def test_marked_control_tokens_in_gguf_vocabularies(text: str) -> None:
    tokenizer = Tokenizer(gguf_vocabulary({**sentencepiece(), "general.architecture": "phi3"}))
    assert tokenizer.encode_marked(Guard(tokenizer).resolve(text, MARK), MARK) == tokenizer.encode(
        text, add_special=False
    )


def test_named_tokens_and_role_marks() -> None:
    tokenizer = stack("bytes").tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id) == (tokenizer.control["<s>"], tokenizer.control["</s>"])
    assert set(tokenizer.control) == {*SPECIAL, "<｜User｜>", "<think>"}
    ids = tokenizer.encode("<|im_end|><｜User｜><think>", add_special=False)
    assert tokenizer.decode(ids) == "<｜User｜><think>"  # a mark that is not called special is shown


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (True, False), (False, False)])
def test_the_configuration_has_the_last_word_on_begin_and_end(bos: bool, eos: bool) -> None:
    tokenizer = load(folder("bytes", add_bos_token=bos, add_eos_token=eos)).tokenizer
    assert tokenizer.before == ((tokenizer.bos_id,) if bos else ())
    assert tokenizer.after == ((tokenizer.eos_id,) if eos else ())


def test_truncation_and_padding_are_off(tmp_path: Path) -> None:
    made = byte_level()
    made.enable_truncation(3)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path).tokenizer.decode(load(tmp_path).tokenizer.encode("hello hello")) == "hello hello"
    assert load(tmp_path).tokenizer.decode(load(tmp_path).tokenizer.encode("h")) == "h"


def test_where_templates_come_from(tmp_path: Path) -> None:
    root = folder("bytes")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    none = load(tmp_path)
    assert none.template is not None and "ChatML" in none.notes[0]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())

    def says(**more: Any) -> str:
        template = load(tmp_path, **more).template
        assert template is not None
        return template.render([], tools=[{}] if more.pop("tools", None) else None)

    config["chat_template"] = "config {{ bos_token }}{{ eos_token }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert says() == "config <s></s>"
    config["chat_template"] = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert says() == "named"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert says() == "file"
    (tmp_path / "mine.jinja").write_text("mine")
    assert says(chat_template=str(tmp_path / "mine.jinja")) == "mine"


def test_templates_by_name(tmp_path: Path) -> None:
    root = folder("bytes")
    (tmp_path / "tokenizer.json").write_bytes((root / "tokenizer.json").read_bytes())
    own = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "own"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))

    def says(name: str) -> str:
        template = load(tmp_path, chat_template=name).template
        assert template is not None
        return template.render([{"role": "user", "content": "x"}])

    assert says("tool_use") == "tools" and says("default") == "own"
    assert says("chatml").startswith("<|im_start|>user\nx") and says("lines") == "user: x\nassistant:"
    with pytest.raises(
        CannotStart, match=r"rag: there is no such file.*own are default, tool_use; built in are chatml, lines"
    ):
        says("rag")


def test_named_templates_as_files(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert _folder_templates(tmp_path) == {"default": "file", "tool_use": "tools"}


def test_another_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load(tmp_path, tokenizer=str(folder("bytes"))).tokenizer.bos_id is not None
    assert load(tmp_path, tokenizer=str(folder("bytes") / "tokenizer.json")).tokenizer.bos_id is not None


def test_missing_and_damaged_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no tokenizer\.json"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(BadModel, match="no tokenizer that we can read"):
        load(tmp_path)
    with pytest.raises(CannotStart, match="--tokenizer /nowhere: there is no such"):
        load(tmp_path, tokenizer="/nowhere")
    with pytest.raises(CannotStart, match=r"--chat-template /nowhere\.jinja"):
        load(folder("bytes"), chat_template="/nowhere.jinja")


@pytest.mark.weights
def test_the_embedded_model(smollm2: Path) -> None:
    made = load(smollm2)
    assert made.template is not None and made.notes == ()
    assert made.template.render([{"role": "user", "content": "Hi"}]).endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
