"""What can be wrong with a message of the secure sum; each says what, none carries data."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A message that is refused; nothing was changed and nothing revealed."""

    code = "refused"


class WrongSize(ProtocolError):
    """A vector or a list of another length than the round's."""

    code = "wrong_size"


class Replay(ProtocolError):
    """A message of another round, or a round that was already taken part in."""

    code = "replay"


class Late(ProtocolError):
    """A message of a phase that is over, or of a client that dropped out before it."""

    code = "late"


class Early(ProtocolError):
    """A message of a phase that has not begun."""

    code = "early"


class Repeated(ProtocolError):
    """A second message of one client in one phase; the first one counts."""

    code = "repeated"


class UnknownClient(ProtocolError):
    """A client that is not on the roster."""

    code = "unknown_client"


class BadSignature(ProtocolError):
    """A message that its named sender did not sign."""

    code = "bad_signature"


class Tampered(ProtocolError):
    """A share that does not open, or does not fit what its owner announced."""

    code = "tampered"


class TooFew(ProtocolError):
    """Fewer clients than the threshold: the round reveals nothing and ends."""

    code = "too_few"


class Lied(ProtocolError):
    """The server contradicts what this client knows; the client reveals nothing more."""

    code = "lied"


ERRORS: dict[str, type[ProtocolError]] = {
    kind.code: kind
    for kind in (
        ProtocolError,
        WrongSize,
        Replay,
        Late,
        Early,
        Repeated,
        UnknownClient,
        BadSignature,
        Tampered,
        TooFew,
        Lied,
    )
}
"""By code, as they travel."""
