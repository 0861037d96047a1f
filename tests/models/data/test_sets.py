"""Readers of recorded sets, on made-up sets in the published formats."""

import tarfile
import zipfile

import numpy as np
import pytest

from models import signals
from models.data import SETS, BadRecord, open_set, read_all

EXPECTED = {
    "physionet2012": 8,
    "physionet2019": 12,
    "eicu-demo": 6,
    "bidmc": 2,
    "physionet2009": 2,
}


def same(one, other):
    return (
        one.record == other.record
        and one.case == other.case
        and np.array_equal(one.times_ms, other.times_ms)
        and np.array_equal(one.row, other.row)
        and np.array_equal(one.signal, other.signal)
        and np.array_equal(one.value, other.value)
    )


def unpacked(folder, to):
    """The same files, out of their archives."""
    for file in folder.iterdir():
        if file.suffix == ".zip":
            zipfile.ZipFile(file).extractall(to)
        elif file.name.endswith(".tar.gz"):
            with tarfile.open(file) as archive:
                archive.extractall(to, filter="data")
        else:
            (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_whole_and_in_order(name, recorded, tmp_path):
    """Each stay has rising times, values in range of its rows, and catalogue signals."""
    stays = read_all(name, [recorded.WRITERS[name](tmp_path / "set")])

    assert len(stays) == EXPECTED[name]
    for stay in stays:
        assert stay.set_name == name
        assert (np.diff(stay.times_ms) > 0).all()
        assert (np.diff(stay.row) >= 0).all()
        assert len(stay.row) == len(stay.signal) == len(stay.value) > 0
        assert stay.row.min() >= 0 and stay.row.max() < len(stay.times_ms)
        assert stay.signal.min() >= 0 and stay.signal.max() < signals.COUNT
        assert stay.bounded().value.size > 0.9 * stay.value.size


@pytest.mark.parametrize("name", SETS)
def test_archives_folders_and_unpacked_files_are_the_same(name, recorded, tmp_path):
    """How a set is packed changes nothing."""
    folder = recorded.WRITERS[name](tmp_path / "set")
    (tmp_path / "unpacked").mkdir()
    ways = (
        [folder],
        sorted(folder.iterdir()),
        [unpacked(folder, tmp_path / "unpacked")],
    )
    read = [sorted(read_all(name, way), key=lambda s: s.record) for way in ways]

    assert all(len(stays) == EXPECTED[name] for stays in read)
    for first, second, third in zip(*read, strict=True):
        assert same(first, second)
        assert same(first, third)


@pytest.mark.parametrize("name", SETS)
def test_labels_are_read_only_where_asked_for(name, recorded, tmp_path):
    """Without being asked a stay has none."""
    folder = recorded.WRITERS[name](tmp_path / "set")

    assert all(stay.labels is None for stay in open_set(name, [folder]))
    assert all(stay.labels is not None for stay in open_set(name, [folder], labels=True))


def test_a_set_can_be_iterated_again(recorded, tmp_path):
    """Each pass reads the files anew."""
    opened = open_set("bidmc", [recorded.bidmc(tmp_path)])

    assert len(list(opened)) == len(list(opened)) == 2


def test_an_unknown_set_and_a_missing_path_are_refused(tmp_path):
    """Both name what was given."""
    with pytest.raises(ValueError, match="mimic"):
        open_set("mimic", [tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(open_set("bidmc", [tmp_path / "nowhere"]))


def test_a_folder_without_records_says_so(tmp_path):
    """An empty training set is an error, not a set of nothing."""
    with pytest.raises(ValueError, match="physionet2019"):
        read_all("physionet2019", [tmp_path])


def test_a_broken_archive_costs_itself_only(recorded, tmp_path):
    """The other archives are still read, and the broken one is named."""
    folder = recorded.physionet2019(tmp_path)
    (folder / "training_setA.zip").write_bytes(b"not a zip")
    opened = open_set("physionet2019", [folder])

    assert len(list(opened)) == 6
    assert len(opened.bad) == 1
    assert "training_setA.zip" in str(opened.bad[0])


def test_a_truncated_tar_costs_what_is_behind_the_cut(recorded, tmp_path):
    """What was read before the cut stays read."""
    folder = recorded.physionet2012(tmp_path)
    archive = folder / "set-a.tar.gz"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    opened = open_set("physionet2012", [archive])

    assert 0 < len(list(opened)) < 8
    assert opened.bad


def test_a_record_that_occurs_twice_is_read_once(recorded, tmp_path):
    """The same archive in two places is one set."""
    folder = recorded.bidmc(tmp_path / "a")
    opened = open_set("bidmc", [folder, folder])

    assert len(list(opened)) == 2
    assert len(opened.bad) == 2


@pytest.mark.parametrize(
    ("name", "file", "text", "line"),
    [
        ("physionet2012", "132539.txt", "Time,Parameter,Value\n00:00,Age,54\n00:07,HR,fast\n", 3),
        ("physionet2012", "132539.txt", "Time,Parameter,Value\n00:00,Age\n", 2),
        ("physionet2012", "132539.txt", "<html>\n", 1),
        ("physionet2019", "p000001.psv", "HR|ICULOS\n80|1\n80|x\n", 3),
        ("physionet2019", "p000001.psv", "HR|ICULOS\n80|1\n80\n", 3),
        ("physionet2019", "p000001.psv", "<html>\n", 1),
        (
            "bidmc",
            "bidmc_01_Numerics.csv",
            "Time [s], HR, PULSE, RESP, SpO2\n0,1,2,3,4\n1,a,2,3,4\n",
            3,
        ),
        ("physionet2009", "C1_1.csv", "minute,map_mmHg\n0,71\n1,71,5\n", 3),
        ("physionet2009", "C1_1.csv", "minute,mmHg\n0,71\n", 1),
    ],
)
def test_a_bad_line_is_named_and_costs_its_record_only(name, file, text, line, recorded, tmp_path):
    """The error says which file and which line."""
    (tmp_path / file).write_text(text)
    opened = open_set(name, [tmp_path])

    assert list(opened) == []
    assert [(bad.file, bad.line) for bad in opened.bad] == [(file, line)]
    assert f"{file}:{line}" in str(opened.bad[0])


def test_wrong_tables_of_eicu_are_named(recorded, tmp_path):
    """A parquet file that is none, and a table without its key."""
    folder = recorded.eicu(tmp_path)
    (folder / "diagnosis.csv.gz").write_bytes(b"no gzip")
    (folder / "pastHistory.csv.gz").unlink()
    (folder / "pastHistory.csv").write_text("a,b\n1,2\n")
    opened = open_set("eicu-demo", [folder], labels=True)

    assert len(list(opened)) == 6
    assert sorted(bad.file for bad in opened.bad) == ["diagnosis.csv.gz", "pastHistory.csv"]
    (folder / "hourly.parquet").write_bytes(b"PAR1")
    assert list(opened) == []
    assert any(bad.file == "hourly.parquet" for bad in opened.bad)


def test_bad_records_say_file_line_and_reason():
    """Without a line the file alone is named."""
    assert str(BadRecord("a.psv", 3, "why")) == "a.psv:3: why"
    assert str(BadRecord("a.psv", None, "why")) == "a.psv: why"
