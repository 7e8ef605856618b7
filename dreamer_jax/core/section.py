"""What the sections of a configuration have in common. Imports no JAX."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

LARGEST = 2**53  # of whole numbers: larger ones are no count of anything, and no float holds them exactly


class Section(BaseModel):
    """A frozen group of options; its fields say their unit, their range and where their default comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _numbers_are_countable(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise PydanticCustomError("too_large", "at most {limit} was expected", {"limit": LARGEST})
        return value


def none_from_text(value: Any) -> Any:
    """None for "none" as it is typed on a command line; anything else as it is."""
    return None if isinstance(value, str) and value.lower() == "none" else value
