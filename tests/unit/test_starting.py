"""What starting a command may bring in: every import is time that a person waits for, on each call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from agent import tekken
from agent.tokens import BUNDLED

HEAVY = "sqlalchemy alembic mistral_common numpy celery redis github fastapi uvicorn httpx prometheus_client vllm torch"


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("worker.cli", f"{HEAVY} opentelemetry"),
        ("worker.compose", "mistral_common numpy celery redis fastapi uvicorn alembic vllm torch"),
        ("worker.local", "mistral_common numpy celery redis fastapi uvicorn alembic vllm torch"),
        ("agent.loop", "sqlalchemy mistral_common numpy httpx"),
        ("agent.tokens", "mistral_common numpy"),
    ],
)
def test_what_an_import_leaves_out(module: str, without: str):
    code = f"import {module}, sys; print(*sorted(set({without.split()!r}) & sys.modules.keys()))"
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.split() == []


def test_no_piece_of_the_vocabulary_is_listed_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """Red without `_Tekken`: a hundred thousand and more are decoded one by one, for a list that nobody reads."""
    asked: list[int] = []
    plain = Tekkenizer.id_to_piece

    def counted(self: Tekkenizer, token_id: int) -> str:
        asked.append(token_id)
        return plain(self, token_id)

    monkeypatch.setattr(Tekkenizer, "id_to_piece", counted)
    made = tekken._bundled(BUNDLED)
    assert asked == []
    assert made.id_to_piece(2000) == made.vocab()[2000] != ""
    assert len(asked) == made.n_words + 1
