"""The Hugging Face Hub, which is asked only if it answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_session


@contextmanager
def hub(source: str | Path, what: str) -> Iterator[None]:
    """Within the block a Hub that gives no answer in HF_HUB_ETAG_TIMEOUT seconds is not asked.

    Its clients would try again for minutes at every file; so they take what is in their caches, as
    with HF_HUB_OFFLINE. ConnectionError where the block then lacks `what` (such as "model") is
    called `source`; a local folder is none of the Hub's.
    """
    if Path(source).is_dir():
        yield
        return
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _answers()
    try:
        yield
    except OSError as error:
        raise ConnectionError(
            f"The {what} {str(source)!r} is not in a local folder of that name and the Hub cannot "
            "be reached or does not have it; check the name and the network, or pass a folder."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers() -> bool:
    """Whether the Hub answers anything at all."""
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # whatever a session raises that its user may have replaced
        return False
    return True
