"""The whole schema: importing every module with tables is what fills the metadata."""

from __future__ import annotations

from sqlalchemy import MetaData

from worker.store import attempts, evidence, lanes, models, money, notifications, operations, remarks, steps, tries
from worker.store.base import Base

METADATA: MetaData = Base.metadata
MODULES = (attempts, evidence, lanes, models, money, notifications, operations, remarks, steps, tries)
