"""Everything of the public API that goes to no engine, on FastAPI: health, models, docs; and what `/docs` says
of the inference routes, which are served beside it."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from penstock import __version__
from penstock.core.config import ModelConfig
from penstock.core.errors import ClientError, InternalError, PenstockError
from penstock.gateway.auth import authenticate
from penstock.gateway.replicas import Replicas
from penstock.gateway.responses import error_body, error_headers
from penstock.gateway.settings import Settings
from penstock.gateway.tenants import Caller
from penstock.store.keys import KeyRing

NOT_READY_RETRY_AFTER_S = "2"


class _Open(BaseModel):
    """A body whose further members go to the engine unchanged."""

    model_config = ConfigDict(extra="allow")


class ChatMessage(_Open):
    """One message of a conversation."""

    role: str = Field(examples=["user"])
    content: Any = Field(examples=["What is tensor parallelism?"])


class ChatCompletionRequest(_Open):
    """OpenAI's chat completion request; every member the engine knows is allowed."""

    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = Field(None, examples=[256])
    stream: bool = False


class CompletionRequest(_Open):
    """OpenAI's completion request."""

    model: str
    prompt: str | list[Any]
    max_tokens: int | None = Field(None, examples=[64])
    stream: bool = False


class EmbeddingRequest(_Open):
    """OpenAI's embedding request."""

    model: str
    input: str | list[Any]


class GenerateRequest(BaseModel):
    """A prompt, without the OpenAI dress."""

    prompt: str
    model: str | None = None
    max_tokens: int | None = Field(None, examples=[64])
    temperature: float | None = Field(None, examples=[0])
    stream: bool = False


def build_api(settings: Settings, replicas: Replicas, keys: KeyRing, draining: Callable[[], bool]) -> FastAPI:
    """The application.

    Args:
        draining: whether the gateway is stopping.
    """
    api: FastAPI = FastAPIOffline(title="Penstock", version=__version__, redoc_url=None)
    answer_errors(api)
    _add_health(api, settings, replicas, draining)
    _add_models(api, settings, keys)
    _add_inference_docs(api)
    return api


def answer_errors(app: FastAPI) -> None:
    """Makes the application's errors responses of our shape, and no redirect of a mistyped path."""
    app.router.redirect_slashes = False
    app.add_exception_handler(PenstockError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)  # and it is raised again, for the log


def _add_health(api: FastAPI, settings: Settings, replicas: Replicas, draining: Callable[[], bool]) -> None:
    async def health() -> dict[str, str]:
        """Whether the gateway itself is alive."""
        return {"status": "ok"}

    async def ready(response: Response) -> dict[str, Any]:
        """Whether every model has a replica that has proved itself; 503 and the reasons until then."""
        fleet = replicas.fleet
        reasons = {m.name: fleet.unready_reason(m.name) for m in settings.models if not fleet.ready(m.name)}
        if draining():
            reasons["gateway"] = "is stopping"
        if reasons:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
            response.headers["retry-after"] = NOT_READY_RETRY_AFTER_S
        return {"ready": not reasons, "reasons": reasons}

    for path in ("/health", "/healthz"):
        api.get(path, tags=["health"])(health)
        api.head(path, include_in_schema=False)(health)
    api.get("/ready", tags=["health"], responses={503: {"description": "Not ready"}})(ready)


def _add_models(api: FastAPI, settings: Settings, keys: KeyRing) -> None:
    def calling(request: Request) -> Caller:
        return settings.tenants.caller(authenticate(request.headers.raw, keys))

    Calling = Annotated[Caller, Depends(calling)]  # noqa: N806 - a type, that needs the keys

    def described(name: str, model: ModelConfig) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "penstock", "root": model.name}

    async def list_models(caller: Calling) -> dict[str, Any]:
        """The models that the key may ask for, aliases too."""
        allowed = [model for model in settings.models if caller.may_use(model)]
        data = [described(name, model) for model in allowed for name in (model.name, *model.aliases)]
        return {"object": "list", "data": data}

    async def show_model(name: str, caller: Calling) -> dict[str, Any]:
        """One model."""
        model = settings.models.find(name)
        caller.check_model(model)
        return described(name, model)

    guarded: Any = {"tags": ["models"], "dependencies": [Depends(_BEARER)]}
    api.get("/v1/models", **guarded)(list_models)
    api.get("/v1/models/{name:path}", **guarded)(show_model)


def _add_inference_docs(api: FastAPI) -> None:
    """Declares the inference routes for `/docs`, and so that another method on them is a 405."""

    async def chat(_: ChatCompletionRequest) -> Response:
        """A chat completion, whole or streamed."""
        raise _NOT_HERE

    async def completions(_: CompletionRequest) -> Response:
        """A completion of a prompt, whole or streamed."""
        raise _NOT_HERE

    async def embeddings(_: EmbeddingRequest) -> Response:
        """Embeddings, where the model's engine makes them."""
        raise _NOT_HERE

    async def generate(_: GenerateRequest) -> Response:
        """A prompt in, text out, by the first model unless another is named."""
        raise _NOT_HERE

    routes: dict[str, Callable[[Any], Awaitable[Response]]] = {
        "/v1/chat/completions": chat,
        "/v1/completions": completions,
        "/v1/embeddings": embeddings,
        "/generate": generate,
    }
    for path, endpoint in routes.items():
        api.post(path, tags=["inference"], dependencies=[Depends(_BEARER)])(endpoint)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.status, headers)


async def _on_bug(request: Request, _: Exception) -> Response:
    return await _on_error(request, InternalError("the gateway failed; this is a bug in Penstock"))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:256]}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        problem = ClientError(
            f"{where}: this route has another method", code="method_not_allowed", status=405
        )
    else:
        problem = ClientError(
            f"{where}: there is no such route", code="unknown_route", status=error.status_code
        )
    problem.hint = "GET /docs of the public listener shows all routes"
    response = await _on_error(request, problem)
    response.headers.update(error.headers or {})
    return response


_BEARER = HTTPBearer(auto_error=False, description="An API key, as `penstock keys create` makes them.")
_NOT_HERE = InternalError("an inference request has reached FastAPI")
