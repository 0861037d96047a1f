"""The secure sum: exact for whoever stays, and nothing of one client for the server."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from models.federated import shamir
from models.federated.client import Client, pair_key
from models.federated.errors import (
    BadSignature,
    Early,
    Late,
    Lied,
    ProtocolError,
    Repeated,
    Replay,
    Tampered,
    TooFew,
    UnknownClient,
    WrongSize,
)
from models.federated.masks import derive, mask
from models.federated.messages import (
    PHASES,
    Advertise,
    Agree,
    Agreed,
    Inbox,
    Roster,
    Survivors,
    Task,
    usual_threshold,
)
from models.federated.server import Result, Round

SIZE = 9
IDENTITIES = {f"site-{i:02d}": Ed25519PrivateKey.generate() for i in range(9)}


class Ward:
    """Some clients and a server of one round, without a network."""

    def __init__(
        self, count: int = 6, *, bits: Any = 32, size: int = SIZE, number: int = 1
    ) -> None:
        self.keys = dict(list(IDENTITIES.items())[:count])
        self.roster = {name: key.public_key() for name, key in self.keys.items()}
        self.task = Task(
            federation="test",
            number=number,
            size=size,
            bits=bits,
            clip=1.0,
            max_weight=1000,
            threshold=usual_threshold(count),
            clients=tuple(sorted(self.keys)),
            model=bytes(32),
        )
        self.round = Round(self.task, self.roster)
        self.clients = {
            name: Client(name, key, self.roster, self.task) for name, key in self.keys.items()
        }
        rng = np.random.default_rng(count * 7 + number)
        self.values = {
            name: rng.uniform(-1.5, 1.5, size - 1).astype(np.float32) for name in self.keys
        }
        self.weights = {name: int(rng.integers(1, 1000)) for name in self.keys}

    def step(self, name: str) -> Any:
        """The client's message of the phase that the server is in."""
        phase, client = self.round.phase, self.clients[name]
        if phase == "advertise":
            return client.advertise()
        answer: Any = self.round.answer(name, PHASES[PHASES.index(phase) - 1])
        if phase == "share":
            return client.share(answer)
        if phase == "mask":
            return client.mask(answer, self.values[name], self.weights[name])
        return client.agree(answer) if phase == "agree" else client.unmask(answer)

    def until(self, phase: str, drops: dict[str, str] | None = None) -> Result | None:
        """Play up to (not into) a phase; `drops` says in which phase a client falls silent."""
        drops, result = drops or {}, None
        while self.round.phase != phase:
            now = PHASES.index(self.round.phase)
            for name in list(self.round.expected):
                if name not in drops or PHASES.index(drops[name]) > now:  # type: ignore[arg-type]
                    self.round.receive(name, self.step(name))
            result = self.round.close()
        return result

    def sum_of(self, names: Any) -> np.ndarray:
        """What the plain sum of fixed-point values is."""
        numbers = self.task.numbers
        whole = sum(numbers.whole(numbers.encode(self.values[name])) for name in names)
        return np.asarray(whole) * numbers.step


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(3, 9),
    bits=st.sampled_from([24, 31, 32]),
    data=st.data(),
)
def test_the_sum_is_exact_for_any_dropouts_of_up_to_a_third(
    count: int, bits: int, data: st.DataObject
) -> None:
    """Whoever falls silent in whichever phase, the sum is that of those who sent a vector."""
    ward = Ward(count, bits=bits)
    gone = data.draw(st.lists(st.sampled_from(sorted(ward.keys)), unique=True, max_size=count // 3))
    drops = {name: data.draw(st.sampled_from(PHASES[:5])) for name in gone}
    result = ward.until("done", drops)
    assert result is not None
    stayed = [n for n in ward.keys if drops.get(n, "done") in ("agree", "unmask", "done")]
    assert result.clients == tuple(sorted(stayed))
    assert np.array_equal(result.total, ward.sum_of(stayed))
    assert result.weights.tolist() == [sum(ward.weights[name] for name in stayed)]


@pytest.mark.parametrize("phase", PHASES[:5])
def test_more_than_a_third_gone_ends_the_round_without_a_sum(phase: str) -> None:
    """With fewer than the threshold the server refuses, in every phase."""
    ward = Ward(6)
    with pytest.raises(TooFew):
        ward.until("done", dict.fromkeys(list(ward.keys)[:3], phase))


def test_a_round_goes_on_from_its_snapshot_in_every_phase() -> None:
    """A server restored after every message gives the same exact sum."""
    ward = Ward(6)
    result = None
    while ward.round.phase != "done":
        for name in list(ward.round.expected):
            if name == "site-02" and ward.round.phase == "mask":
                continue
            ward.round.receive(name, ward.step(name))
            ward.round = Round.restore(ward.round.snapshot(), ward.roster)
        result = ward.round.close()
    assert result is not None
    assert np.array_equal(result.total, ward.sum_of(result.clients))
    assert len(result.clients) == 5


def _received(patch: pytest.MonkeyPatch, values: np.ndarray, bits: int) -> dict[Any, bytes]:
    """All that the server receives in a round with one dropout, with all randomness fixed."""
    drawn = random.Random(5)
    with patch.context() as fixed:
        fixed.setattr(
            X25519PrivateKey,
            "generate",
            lambda: X25519PrivateKey.from_private_bytes(drawn.randbytes(32)),
        )
        fixed.setattr("secrets.token_bytes", drawn.randbytes)
        fixed.setattr("secrets.randbelow", drawn.randrange)
        ward = Ward(4, bits=bits)
        ward.values["site-00"] = values
        said: dict[Any, bytes] = {}
        receive = ward.round.receive

        def listen(name: str, message: Any) -> None:
            said[name, type(message).__name__] = msgspec.msgpack.encode(message)
            receive(name, message)

        fixed.setattr(ward.round, "receive", listen)
        ward.until("done", {"site-03": "mask"})
    return said


def test_of_all_messages_only_the_masked_vector_depends_on_the_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With randomness fixed and another update, every other message is the same to the byte."""
    for bits in (24, 31, 32):
        one = _received(monkeypatch, np.zeros(SIZE - 1, np.float32), bits)
        two = _received(monkeypatch, np.linspace(-1, 1, SIZE - 1, dtype=np.float32), bits)
        assert {key for key in one if one[key] != two[key]} == {("site-00", "Masked")}


@settings(max_examples=20, deadline=None)
@given(value=st.floats(-1, 1, width=32), bits=st.sampled_from([24, 31, 32]))
def test_all_masks_the_server_can_take_off_leave_a_vector_unreadable(
    value: float, bits: int
) -> None:
    """After a whole round with a dropout, it holds seeds and keys of different clients only.

    Taking off the self-mask of a survivor and its mask shared with who dropped leaves those shared
    with the other survivors.
    """
    ward = Ward(4, bits=bits)
    ward.values["site-00"][:] = value
    ward.until("mask")
    numbers, low = ward.task.numbers, np.uint32((1 << bits) - 1)
    sent = ward.step("site-00")
    ward.round.receive("site-00", sent)
    for name in ("site-01", "site-02"):
        ward.round.receive(name, ward.step(name))
    ward.round.close()
    ward.until("done")
    state, context = ward.round.state, ward.round.context
    assert not any(set(said.seeds) & set(said.keys) for said in state.unmasked.values())
    seed = ward.round._join("site-00", {w: s.seeds["site-00"] for w, s in state.unmasked.items()})
    raw = ward.round._join("site-03", {w: s.keys["site-03"] for w, s in state.unmasked.items()})
    key = pair_key(
        X25519PrivateKey.from_private_bytes(raw),
        state.advertised["site-00"].mask,
        context,
        "site-03",
        "site-00",
    )
    words = numbers.unpack(sent.data, SIZE).copy()
    mask(words, [], [derive(seed, context, "self"), key])
    plain = numbers.encode(ward.values["site-00"]) & low
    assert not np.intersect1d(words & low, plain).size
    assert len(set((words & low).tolist())) >= SIZE - 1


def test_masked_words_are_uniform_whatever_the_update() -> None:
    """Bits of a masked vector of zeros and of one of ones are fair, to five standard errors."""
    for value in (0.0, 1.0):
        ward = Ward(3, size=20_001)
        ward.values["site-00"] = np.full(20_000, value, np.float32)
        ward.until("mask")
        data = ward.step("site-00").data
        ones = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 32).sum(0, dtype=np.int64)
        assert np.abs(ones - 10_000).max() < 5 * np.sqrt(20_000) / 2


def test_any_threshold_less_one_of_shares_says_nothing() -> None:
    """For t - 1 shares every secret is possible: each has its own last share that completes it."""
    secret = bytes(range(32))
    shares = shamir.split(secret, 4, 6)
    held = {i + 1: shares[i] for i in range(3)}
    seen = {shamir.join({**held, 4: y.to_bytes(33, "big")}) for y in _completions(held)}
    assert len(seen) == 8
    assert shamir.join({i + 1: shares[i] for i in (0, 2, 3, 5)}) == secret


def _completions(held: dict[int, bytes]) -> list[int]:
    """Fourth shares that make 8 chosen secrets of three given shares."""
    found = []
    for number in range(8):
        points = {0: number, **{x: int.from_bytes(y, "big") for x, y in held.items()}}
        total = 0
        for x, y in points.items():
            above = below = 1
            for other in points:
                if other != x:
                    above, below = above * (4 - other), below * (x - other)
            total += y * above * pow(below, -1, shamir.PRIME)
        found.append(total % shamir.PRIME)
    return found


def test_the_field_is_a_prime_above_every_secret() -> None:
    """Miller-Rabin with 40 bases; 2^256 + 297."""
    n = shamir.PRIME
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for base in range(2, 42):
        x = pow(base, d, n)
        if x in (1, n - 1):
            continue
        squares = [pow(x, 2**k, n) for k in range(1, r)]
        assert n - 1 in squares


def test_a_server_that_calls_a_survivor_dropped_learns_neither_vector() -> None:
    """Told that site-05 dropped, clients give its mask key only: its seed stays, its vector too."""
    ward = Ward(6)
    ward.until("agree")
    lie = Survivors(ward.round.context, tuple(n for n in sorted(ward.keys) if n != "site-05"))
    signed = {n: ward.clients[n].agree(lie).signature for n in lie.clients}
    said = [ward.clients[n].unmask(Agreed(lie.context, signed)) for n in lie.clients]
    assert all("site-05" in s.keys and "site-05" not in s.seeds for s in said)
    with pytest.raises(Lied, match="dropped out"):
        ward.clients["site-05"].agree(lie)


def test_a_server_that_tells_two_stories_gets_nothing() -> None:
    """Half is told that site-05 dropped, half that it stayed: no share is revealed."""
    ward = Ward(6)
    ward.until("agree")
    context, names = ward.round.context, sorted(ward.keys)
    stories = [Survivors(context, tuple(names)), Survivors(context, tuple(names[:-1]))]
    signed = {n: ward.clients[n].agree(stories[i % 2]).signature for i, n in enumerate(names[:5])}
    for n in names[:5]:
        with pytest.raises((BadSignature, Lied)):
            ward.clients[n].unmask(Agreed(context, signed))
        with pytest.raises(Late):
            ward.clients[n].unmask(Agreed(context, signed))


def test_a_client_signs_and_reveals_once() -> None:
    """A second list of survivors, or a second request to reveal, is refused."""
    ward = Ward(6)
    ward.until("unmask")
    client = ward.clients["site-00"]
    told: Any = ward.round.answer("site-00", "agree")
    with pytest.raises(Late):
        client.agree(Survivors(ward.round.context, tuple(sorted(ward.keys))))
    client.unmask(told)
    with pytest.raises(Late):
        client.unmask(told)


def test_too_few_signatures_reveal_nothing() -> None:
    """Fewer signatures than the threshold, and survivors below it, are refused by the client."""
    ward = Ward(6)
    ward.until("unmask")
    told: Any = ward.round.answer("site-00", "agree")
    few = Agreed(told.context, dict(list(told.signatures.items())[:3]))
    with pytest.raises(TooFew):
        ward.clients["site-00"].unmask(few)
    other = Ward(6)
    other.until("agree")
    with pytest.raises(TooFew):
        other.clients["site-00"].agree(Survivors(other.round.context, ("site-00", "site-01")))


def test_a_server_cannot_bring_in_keys_of_its_own() -> None:
    """Keys that the named hospital did not sign, unknown names, and doubled keys are refused."""
    for spoil, kind in (("key", BadSignature), ("name", UnknownClient), ("own", Lied)):
        ward = Ward(6)
        ward.until("share")
        told: Any = ward.round.answer("site-00", "advertise")
        said = dict(told.advertised)
        if spoil == "key":
            said["site-01"] = msgspec.structs.replace(said["site-01"], mask=bytes(range(32)))
        elif spoil == "name":
            said["stranger"] = said["site-01"]
        else:
            del said["site-00"]
        with pytest.raises(kind):
            ward.clients["site-00"].share(Roster(told.context, said))


def test_a_spoilt_share_is_noticed_before_the_vector_is_sent() -> None:
    """A bit flipped between two clients does not open."""
    ward = Ward(6)
    ward.until("mask")
    told: Any = ward.round.answer("site-00", "share")
    spoilt = dict(told.sealed)
    spoilt["site-01"] = bytes([spoilt["site-01"][0] ^ 1]) + spoilt["site-01"][1:]
    with pytest.raises(Tampered):
        ward.clients["site-00"].mask(Inbox(told.context, spoilt), ward.values["site-00"])


def test_a_client_that_lies_about_a_share_is_noticed() -> None:
    """A wrong share gives no wrong sum: the round ends with an error."""
    ward = Ward(6)
    ward.until("unmask")
    for name in sorted(ward.keys):
        said = ward.step(name)
        if name == "site-00":
            seeds = {**said.seeds, "site-03": bytes(33)}
            said = msgspec.structs.replace(said, seeds=seeds)
        ward.round.receive(name, said)
    with pytest.raises(Tampered):
        ward.round.close()


def test_a_task_that_a_client_would_not_take_part_in_is_refused() -> None:
    """Another roster, half a threshold, an old number: no round begins."""
    ward = Ward(6)
    name, key = next(iter(ward.keys.items()))
    for change, kind in (
        ({"clients": ward.task.clients[:5]}, Lied),
        ({"threshold": 3}, Lied),
        ({"size": 0}, Lied),
        ({"number": 4}, Replay),
    ):
        task = msgspec.structs.replace(ward.task, **change)
        with pytest.raises(kind):
            Client(name, key, ward.roster, task, last=4 if "number" in change else 0)


def test_clients_of_different_models_share_no_round() -> None:
    """A server that hands out different models gets signatures that do not fit."""
    ward = Ward(6)
    name = "site-05"
    other = msgspec.structs.replace(ward.task, model=bytes(31) + b"x")
    deceived = Client(name, ward.keys[name], ward.roster, other)
    with pytest.raises(Replay):
        ward.round.receive(name, deceived.advertise())
    said = deceived_said = Client(name, ward.keys[name], ward.roster, other).advertise()
    said = Advertise(ward.round.context, said.talk, said.mask, deceived_said.signature)
    with pytest.raises(BadSignature):
        ward.round.receive(name, said)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ("stranger", UnknownClient),
        ("replay", Replay),
        ("repeat", Repeated),
        ("late", Late),
        ("early", Early),
        ("size", WrongSize),
        ("dropped", Late),
        ("forged", BadSignature),
    ],
)
def test_a_refused_message_says_why_and_changes_nothing(
    spoil: str, kind: type[ProtocolError]
) -> None:
    """Each misdeed has its own error, and the round goes on to the exact sum."""
    ward = Ward(6)
    ward.until("mask", {"site-05": "share"})
    sender, message = "site-00", ward.step("site-00")
    if spoil == "stranger":
        sender = "stranger"
    elif spoil == "replay":
        message = msgspec.structs.replace(message, context=bytes(32))
    elif spoil == "repeat":
        ward.round.receive(sender, message)
    elif spoil == "late":
        message = Ward(6).clients["site-05"].advertise()
        message = msgspec.structs.replace(message, context=ward.round.context)
        sender = "site-05"
        ward.round.state.advertised.pop(sender)
    elif spoil == "early":
        message = Agree(ward.round.context, bytes(64))
    elif spoil == "size":
        message = msgspec.structs.replace(message, data=message.data[:-4])
    elif spoil == "dropped":
        sender = "site-05"
    elif spoil == "forged":
        ward.round.receive(sender, message)
        for name in ("site-01", "site-02", "site-03", "site-04"):
            ward.round.receive(name, ward.step(name))
        ward.round.close()
        message = Agree(ward.round.context, bytes(64))
    before = copy.deepcopy(ward.round.snapshot())
    with pytest.raises(kind):
        ward.round.receive(sender, message)
    assert ward.round.snapshot() == before


def test_an_update_that_is_none_is_refused_by_the_client() -> None:
    """Another shape, not finite, a weight out of range."""
    for values, weight, kind in (
        (np.zeros(3, np.float32), 1, WrongSize),
        (np.full(SIZE - 1, np.nan, np.float32), 1, ValueError),
        (np.zeros(SIZE - 1, np.float32), -1, ValueError),
        (np.zeros(SIZE - 1, np.float32), 1001, ValueError),
        (np.zeros(SIZE - 1, np.float32), [1, 1], WrongSize),
    ):
        ward = Ward(6)
        ward.until("mask")
        told: Any = ward.round.answer("site-00", "share")
        with pytest.raises(kind):
            ward.clients["site-00"].mask(told, values, weight)
