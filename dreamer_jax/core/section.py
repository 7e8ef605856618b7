"""What the sections of a configuration have in common. Imports no JAX."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

LARGEST = 2**53  # of whole numbers: larger ones are no count of anything, and no float holds them exactly
_WITH_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _split(value: Any) -> Any:
    """The names in "a, b", as they are typed on a command line; a list as it is."""
    if not isinstance(value, str):
        return value
    return [] if value.strip().lower() in ("", "none") else [name.strip() for name in value.split(",")]


Names = Annotated[tuple[str, ...], BeforeValidator(_split), PlainSerializer(list)]
"""Names in an order; "a,b" on the command line, a list in YAML, "none" for none."""


class Section(BaseModel):
    """A frozen group of options; its fields say their unit, their range and where their default comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _exponents_make_whole_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """1e6 is a whole number, on a command line and in YAML, which takes it for text."""
        whole = cls.model_fields[str(info.field_name)].annotation in (int, int | None)
        if whole and isinstance(value, str) and _WITH_EXPONENT.fullmatch(value) and abs(float(value)) <= LARGEST:
            return float(value)  # pydantic refuses one that is not whole
        return value

    @field_validator("*")
    @classmethod
    def _numbers_are_countable(cls, value: Any) -> Any:
        if isinstance(value, int) and value > LARGEST:
            raise PydanticCustomError("too_large", "at most {limit} was expected", {"limit": LARGEST})
        return value


class AnyOptions(Section):
    """Options of an extension that is not imported, as they were read."""

    model_config = ConfigDict(extra="allow", frozen=True)


def typed(section: type[Section], values: Any, name: str | None = None) -> Section:
    """A section of this type from what was read, or from another section.

    Raises:
      ValidationError: a value is wrong; its place begins with `name`.
    """
    if type(values) is section:
        return values
    try:
        return section.model_validate(values.model_dump(by_alias=True) if isinstance(values, Section) else values)
    except ValidationError as error:
        place = () if name is None else (name,)
        problems = [
            InitErrorDetails(
                type=PydanticCustomError(one["type"], one["msg"]),  # pyright: ignore[reportArgumentType]
                loc=(*place, *one["loc"]),
                input=one["input"],
            )
            for one in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, problems) from None


def none_from_text(value: Any) -> Any:
    """None for "none" as it is typed on a command line; anything else as it is."""
    return None if isinstance(value, str) and value.lower() == "none" else value
