"""Marks of the files that say how a model reads and writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixmill.core.config import ModelOptions
from radixmill.core.errors import ModelChanged
from radixmill.core.spec import TextMark
from radixmill.store import ModelFiles
from radixmill.store.texts import check_texts, text_marks, touched


def test_what_was_changed_added_or_taken_away_is_named(tmp_path: Path) -> None:
    files = ModelFiles("toy", tmp_path)
    for name in ("tokenizer.json", "generation_config.json"):
        (tmp_path / name).write_text("{}")
    first = text_marks(files, ModelOptions())
    check_texts(first, text_marks(files, ModelOptions()))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelChanged, match=r"^tokenizer\.json changed"):
        check_texts(first, text_marks(files, ModelOptions()))
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("")
    with pytest.raises(ModelChanged, match=r"chat_template\.jinja and 2 more"):
        check_texts(first, text_marks(files, ModelOptions()))


def test_a_file_that_cannot_be_read_now_has_not_changed(tmp_path: Path) -> None:
    files = ModelFiles("toy", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    first = text_marks(files, ModelOptions())
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").mkdir()  # reading it is an error, as of a disk that is away for a moment
    check_texts(first, text_marks(files, ModelOptions()))
    check_texts(text_marks(files, ModelOptions()), first)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelChanged, match=r"^config\.json changed"):
        check_texts(first, text_marks(files, ModelOptions()))


def test_a_file_whose_bytes_are_known_to_be_the_same_may_have_another_time() -> None:
    before = (TextMark("a.gguf", "9 bytes of 1"), TextMark("template.jinja", "x"))
    now = (TextMark("a.gguf", "9 bytes of 2"), TextMark("template.jinja", "x"))
    with pytest.raises(ModelChanged):
        check_texts(before, now)
    check_texts(touched(before, now, {"a.gguf"}), now)
    with pytest.raises(ModelChanged):
        check_texts(touched(before, now, {"b.gguf"}), now)
