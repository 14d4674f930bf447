"""What is answered without an engine: health, models, docs, and what there is no route for; counted, and told where
it was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

OTHER = "other"
READY = "/ready"  # is asked again and again until it is well
PATH_CHARS_MAX = 256


class ApiAnswers:
    """Counts answers by route and status, both of which are the application's own, and so few.

    Args:
        tell: takes `request_id`, `method`, `path` and `status` of one that was refused.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self._tell = tell

    def add(self, scope: Mapping[str, Any], request_id: str, status: int) -> None:
        """One more, by the ASGI scope of its request once it was routed."""
        route = getattr(scope.get("route"), "path", OTHER)
        key = route, str(status)
        self.counts[key] = self.counts.get(key, 0) + 1
        if status >= 400 and route != READY:
            path = scope["path"][:PATH_CHARS_MAX]
            self._tell(request_id=request_id, method=scope["method"], path=path, status=status)
