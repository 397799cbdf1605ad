"""The base class of all response models."""

from __future__ import annotations

import copy
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr


class Model(BaseModel):
    """A response of the service. Fields that this version of the client does not know are kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    _answer: dict[str, Any] | None = PrivateAttr(None)

    @classmethod
    def of_answer(cls, answer: Any) -> Self:
        """Return a model from the decoded JSON of a response.

        Raises:
            pydantic.ValidationError: the JSON does not match the model.
        """
        model = cls.model_validate(answer)
        model._answer = answer
        return model

    def to_dict(self) -> dict[str, Any]:
        """Return the response as the service sent it, as JSON types."""
        if self._answer is None:
            return self.model_dump(mode="json")
        return copy.deepcopy(self._answer)


def without_client(state: dict[Any, Any]) -> dict[Any, Any]:
    """Return the state of a model without its client, whose connections cannot be pickled."""
    private = state["__pydantic_private__"] or {}
    kept = {name: value for name, value in private.items() if name != "_jobs"}
    return {**state, "__pydantic_private__": kept}
