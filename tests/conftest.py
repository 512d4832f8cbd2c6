"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real video that lies beside the checkout, or where VCSF_SHARED says."""
    folder = Path(os.environ.get("VCSF_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real video is not there: {folder}; VCSF_SHARED says where it is")
    return folder
