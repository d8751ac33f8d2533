"""The base of every model in the contract: frozen, camelCase on the wire, unknown keys refused."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Contract(BaseModel):
    """A frozen pydantic model whose field docstrings become the schema's descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=True,
        ser_json_inf_nan="strings",
        val_json_bytes="base64",
    )


class SpecPart(Contract):
    """A part of the spec: its numbers are finite, as JSON and the API server need them."""

    model_config = ConfigDict(allow_inf_nan=False)
