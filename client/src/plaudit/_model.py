"""The base of every model of an answer."""

from __future__ import annotations

import copy
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr


class Model(BaseModel):
    """An answer of the service. Fields that this client does not know yet are kept as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    _answer: dict[str, Any] | None = PrivateAttr(None)

    @classmethod
    def of_answer(cls, answer: Any) -> Self:
        """From the JSON of an answer.

        Raises:
            pydantic.ValidationError: it has another form.
        """
        model = cls.model_validate(answer)
        model._answer = answer
        return model

    def to_dict(self) -> dict[str, Any]:
        """The answer as the service wrote it, as JSON types."""
        if self._answer is None:
            return self.model_dump(mode="json")
        return copy.deepcopy(self._answer)
