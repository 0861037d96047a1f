"""The contiguous watermark of a partition."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.progress import Progress


@given(
    offsets=st.lists(st.integers(0, 60), unique=True).map(sorted),
    data=st.data(),
)
def test_position_is_the_lowest_unfinished_offset(offsets: list[int], data: st.DataObject) -> None:
    """Whatever finishes in whatever order, nothing unfinished lies before the position."""
    progress = Progress(offsets[0] if offsets else 0)
    for offset in offsets:
        assert progress.take(offset)
    unfinished = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        progress.finish([offset])
        unfinished.discard(offset)
        assert progress.position == (min(unfinished) if unfinished else progress.next)


def test_a_redelivered_offset_is_not_taken_twice() -> None:
    """A record that comes again after a seek back begins nothing."""
    progress = Progress(5)
    assert progress.take(5)
    assert not progress.take(5)
    assert not progress.take(4)
    progress.finish([5])
    assert not progress.take(5)
    assert progress.position == 6


def test_finishing_again_or_what_was_never_taken_changes_nothing() -> None:
    """Late acknowledgements do no harm."""
    progress = Progress(10)
    progress.take(10)
    progress.take(12)
    progress.finish([3, 12, 99])
    assert progress.position == 10
    progress.finish([10])
    progress.finish([10])
    assert progress.position == 13
    assert progress.open == 0


def test_gaps_in_the_log_do_not_hold_the_position() -> None:
    """Offsets that hold no record are passed over."""
    progress = Progress(0)
    progress.take(7)
    progress.finish([7])
    assert progress.position == 8
    progress.skip_to(20)
    assert progress.position == 20
