"""What every test shares: stored teachers go to a folder of this session, never to the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is no failure: examples are bounded in number, not in milliseconds.
settings.register_profile("distil", deadline=None)
settings.load_profile("distil")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
