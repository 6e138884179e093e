"""What tells a model whose engine is in this process from one that a server answers for, without loading either."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from worker.adapters.engine.admission import KvAdmission
from worker.adapters.engine.port import Engine


@runtime_checkable
class Hosted(Protocol):
    """See `worker.adapters.engine.conversation.EngineModel`."""

    engine: Engine
    admission: KvAdmission | None
