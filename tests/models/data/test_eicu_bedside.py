"""What eICU's bedside tables say: coma scale, ventilation, oxygen."""

import gzip

import pyarrow
import pyarrow.parquet
import pytest

from models.data import eicu_bedside as bedside
from models.data import open_set
from models.signals import SIGNALS

EXAM = "notes/Progress Notes/Physical Exam/Physical Exam/"
SCALE = EXAM + "Neurologic/GCS/"


def exam(minute, path):
    return {"physicalexamoffset": str(minute), "physicalexampath": path}


def chart(minute, label, value):
    return {
        "respchartoffset": str(minute),
        "respchartvaluelabel": label,
        "respchartvalue": value,
    }


def said(exams=(), charts=()):
    """By name, of rows that are kept."""
    kept = [row for row in exams if bedside.keeps(bedside.EXAM, row)]
    others = [row for row in charts if bedside.keeps(bedside.RESPIRATORY, row)]
    return [(minute, SIGNALS[s].name, value) for minute, s, value in bedside.charted(kept, others)]


def test_the_coma_scale_is_the_sum_of_one_examinations_parts():
    """Parts of different minutes are not added; a part that lacks makes no sum."""
    whole = [
        exam(30, SCALE + "Motor Score/5"),
        exam(30, SCALE + "Eyes Score/3"),
        exam(30, SCALE + "Verbal Score/2"),
        exam(90, SCALE + "Motor Score/6"),
        exam(95, SCALE + "Eyes Score/4"),
        exam(95, SCALE + "Verbal Score/5"),
    ]

    assert said(whole) == [(30, "gcs", 10.0)]


def test_a_charted_total_stands():
    """`GCS/15` needs no parts."""
    assert said([exam(7, SCALE + "14")]) == [(7, "gcs", 14.0)]


@pytest.mark.parametrize(
    "path", ["Score/scored", "Score/unable to score due to meds", "2", "16", "Motor Score/7", "x"]
)
def test_what_is_no_score_says_nothing(path):
    """Words, and numbers beyond the scale."""
    assert said([exam(1, SCALE + path)]) == []


def test_a_ventilator_shows_by_its_settings_its_name_or_the_examination():
    """A setting of 0 or words instead of a number say nothing."""
    by_exam = [
        exam(5, EXAM + "Constitutional/Vital Sign and Physiological Data/Resp Mode/ventilated")
    ]
    charts = [
        chart(10, "Tidal Volume (set)", "500"),
        chart(20, "Vent Rate", "0"),
        chart(30, "PEEP", "off"),
        chart(40, "O2 Device", "Ventilator"),
        chart(50, "Head of Bed Elevation", "30"),
    ]

    assert said(by_exam, charts) == [
        (5, "mech_vent", 1.0),
        (10, "mech_vent", 1.0),
        (40, "mech_vent", 1.0),
        (40, "on_oxygen", 1.0),
    ]


def test_oxygen_is_a_flow_above_zero_or_a_device_room_air_is_none():
    """An unknown device says nothing."""
    charts = [
        chart(1, "LPM O2", "2"),
        chart(2, "LPM O2", "0"),
        chart(3, "O2 Device", "Nasal cannula"),
        chart(4, "Oxygen Delivery Method", "Room air"),
        chart(5, "O2 Device", "Other (Comment)"),
        chart(6, "LPM O2", "nan"),
    ]

    assert said((), charts) == [(n, "on_oxygen", v) for n, v in ((1, 1), (2, 0), (3, 1), (4, 0))]


def test_what_was_charted_stands_in_the_row_of_its_hour(tmp_path):
    """Before admission in the first, in an hour without a row in the next, after the last nowhere;
    the newest of an hour wins, and no row is added.
    """
    rows = {"stay_id": [1, 1, 1], "hour": [0, 1, 4], "hr": [80.0, 81.0, 82.0]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "hourly.parquet")
    lines = ["physicalexamid,patientunitstayid,physicalexamoffset,physicalexampath"]
    told = ((-30, 9), (61, 10), (119, 11), (130, 12), (400, 13))
    lines += [f"{n},1,{minute},{SCALE}{score}" for n, (minute, score) in enumerate(told)]
    (tmp_path / "physicalExam.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (stay,) = open_set("eicu-demo", [tmp_path])

    gcs = [
        (int(r), float(v))
        for r, s, v in zip(stay.row, stay.signal, stay.value, strict=True)
        if SIGNALS[s].name == "gcs"
    ]
    assert gcs == [(0, 9.0), (1, 11.0), (2, 12.0)]
    assert len(stay.times_ms) == 3
