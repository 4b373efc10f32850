"""SGLang's native shape of a request and its answer: for POST /generate, and for the offline Engine. Knows no HTTP."""

from radixmill.front.session.native.answer import Answers, Generated, MetaInfo
from radixmill.front.session.native.body import GenerateBody, SamplingBody
from radixmill.front.session.native.items import Item, start, to_items

__all__ = ["Answers", "GenerateBody", "Generated", "Item", "MetaInfo", "SamplingBody", "start", "to_items"]
