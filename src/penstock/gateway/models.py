"""The models that clients can ask for, by name and alias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.core.config import ModelConfig
from penstock.core.errors import ClientError

# How many names an error message lists.
NAMED_MAX = 20


class Models:
    """The configured models, in their order."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in models for name in (model.name, *model.aliases)}

    def __iter__(self) -> Iterator[ModelConfig]:
        return iter(self._models)

    @property
    def default(self) -> ModelConfig:
        """The first one."""
        return self._models[0]

    def get(self, name: str) -> ModelConfig | None:
        """The model of this name or alias."""
        return self._by_name.get(name)

    def find(self, name: str) -> ModelConfig:
        """The model of this name or alias.

        Raises:
            ClientError: 404, with the names that exist.
        """
        model = self._by_name.get(name)
        if model is None:
            names = [model.name for model in self._models]
            more = ", ..." if len(names) > NAMED_MAX else ""
            raise ClientError(
                f"model {name[:128]!r} does not exist",
                code="model_not_found",
                param="model",
                hint=f"models here: {', '.join(names[:NAMED_MAX])}{more}",
                status=404,
            )
        return model
