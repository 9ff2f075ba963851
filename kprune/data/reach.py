"""The Hugging Face Hub, which is asked only if it answers."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from huggingface_hub import constants, get_session

STEPS = ("connect", "read", "write", "pool")  # of a request, each with a time limit
ONE = RLock()  # the Hub's client is one for all threads
DISK = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS}  # this machine's own
GONE = {"TimeoutException", "ConnectError"}  # httpx's or httpx2's, whichever the client is of


HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local(path: str | Path) -> Path:
    """A path of the user's, ~ being the home folder; a Hub id stays what it is."""
    return Path(path).expanduser()


@contextmanager
def hub(source: str | Path, what: str) -> Iterator[None]:
    """Within the block a Hub that once gives no answer in HF_HUB_ETAG_TIMEOUT seconds is not asked.

    Its clients would try again for minutes at every file; so they take what is in their caches, as
    with HF_HUB_OFFLINE. ConnectionError where the block then lacks `what` (such as "model") is
    called `source`; a local folder is none of the Hub's.
    """
    if local(source).is_dir():
        yield
        return
    with ONE:
        offline = constants.HF_HUB_OFFLINE
        try:
            with _asked_while_it_answers():
                constants.HF_HUB_OFFLINE = offline or not _answers()
                yield
        except OSError as error:
            if error.errno in DISK:
                raise
            raise ConnectionError(
                f"The {what} {str(source)!r} is not in a local folder of that name and the Hub "
                "cannot be reached or does not have it; check the name and the network, or pass "
                "a folder."
            ) from error
        finally:
            constants.HF_HUB_OFFLINE = offline


@contextmanager
def _asked_while_it_answers() -> Iterator[None]:
    """Give every request of the Hub's client the time limit; the first that fails is the last."""
    session = get_session()
    send, limit = session.send, float(constants.HF_HUB_ETAG_TIMEOUT)

    def send_in_time(request: Any, **options: Any) -> Any:
        given = request.extensions.get("timeout") or {}  # None, no limit at all, for some of them
        limits = {step: min(given.get(step) or limit, limit) for step in STEPS}
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            return send(request, **options)
        except Exception as error:
            if GONE & {kind.__name__ for kind in type(error).__mro__}:
                constants.HF_HUB_OFFLINE = True
            raise

    session.send = send_in_time
    try:
        yield
    finally:
        session.send = send


def _answers() -> bool:
    """Whether the Hub answers anything at all."""
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # whatever a session raises that its user may have replaced
        return False
    return True
