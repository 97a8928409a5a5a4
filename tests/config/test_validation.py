"""pydantic's errors as sentences."""

from typing import Annotated, Literal

import pytest
from mapo_studio.trainer.config.validation import validation_sentence
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _folder(text: str) -> str:
    raise ValueError("there is no folder X")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rank: int = Field(8, ge=1)
    weight: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    name: str = Field("a", min_length=1)
    folder: Annotated[str, BeforeValidator(_folder)] = ""
    needed: int


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "needed is missing"),
        ({"needed": 1, "name": ""}, "name is missing"),
        ({"needed": 1, "inner": {"rnak": 2}}, "unknown key inner.rnak, did you mean rank?"),
        ({"needed": 1, "inner": {"zzz": 2}}, "unknown key inner.zzz; known here: rank, weight"),
        ({"needed": 1, "inner": {"rank": 0}}, "inner.rank: input should be greater than or equal to 1 (got 0)"),
        ({"needed": 1, "folder": "x"}, "folder: there is no folder X"),
        (
            {"needed": 1, "inner": {"weight": -1}},
            "inner.weight: input should be 'auto', or input should be greater than 0 (got -1)",
        ),
        (
            {"needed": 1, "inner": {"rank": 0, "zzz": 1}},
            "inner.rank: input should be greater than or equal to 1 (got 0); ",
        ),
        ([], "the file: input should be a valid dictionary or instance of Outer"),
    ],
)
def test_each_wrong_key_is_named_with_what_it_may_be(values, sentence):
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(values)
    said = validation_sentence(raised.value, Outer, whole="the file")
    assert said.startswith(sentence) if sentence.endswith("; ") else said == sentence


def test_a_whole_request_is_not_repeated():
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate_json('{"needed": 1, "inner"' + " " * 5000)
    assert validation_sentence(raised.value, whole="the request").startswith("the request: invalid JSON")
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"needed": "x" * 5000})
    assert len(validation_sentence(raised.value)) < 300
