"""eICU's words for what a patient came with and had before, as ICD-10 codes of a problem list.

APACHE's admission diagnoses and eICU's past history have no codes of their own. The codes here are
the blocks a word clearly belongs to, unspecified where the word is; strokes are kept out of the
circulatory chapter, because eICU's own diagnosis strings count them as neurologic.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern, re.IGNORECASE), code) for pattern, code in pairs)


# The first rule that matches decides.
_CANCER: Final = _rules(
    (r"benign (tumor|neoplasm)", "D36.9"),
    (r"no cancer|without cancer", ""),
    (r"leukemia|AML\b|ALL\b|CLL\b|CML\b", "C95.9"),
    (r"hodgkin|lymphoma", "C85.9"),
    (r"multiple myeloma", "C90.0"),
    (r"lung.*(cancer|neoplasm)|(cancer|neoplasm).*lung", "C34.9"),
    (r"(colon|rectal|intestin).*cancer|cancer.*(colon|rectal|intestin)", "C18.9"),
    (r"esophag.*cancer|cancer.*esophag", "C15.9"),
    (r"pancrea.*cancer|cancer.*pancrea", "C25.9"),
    (r"stomach.*cancer|cancer.*stomach", "C16.9"),
    (r"hepatoma|liver.*cancer|cancer.*(hepat|liver|gallbladder)", "C22.9"),
    (r"breast", "C50.9"),
    (r"prostate", "C61"),
    (r"cancer.*(bladder|kidney|renal)|nephrectomy", "C68.9"),
    (r"hysterectomy|(uter|ovar|cervi).*cancer|cancer.*(uter|ovar|cervi)", "C57.9"),
    (
        r"(cranial|neurologic|brain).*(neoplasm|cancer|tumor)|(neoplasm|cancer).*(cranial|neuro|brain)",
        "C71.9",
    ),
    (r"metasta", "C79.9"),
    (r"cancer|neoplasm|tumor|malignan|carcinoma|sarcoma|melanoma|chemotherapy", "C80.1"),
)
_ADMISSION: Final = _rules(
    (r"sepsis|septic", "A41.9"),
    (r"CVA|stroke|intracranial|subarachnoid|subdural|intracerebral|hematoma, epidural", "G46.8"),
    (r"infarction, acute myocardial|MI, acute|\(MI\)|STEMI|myocardial infarct", "I21.9"),
    (r"angina|coronary|CABG|chest pain", "I25.9"),
    (r"CHF|heart failure|cardiomyopathy|shock, cardiogenic", "I50.9"),
    (r"rhythm|bradycard|tachycard|fibrillation|conduction|pacemaker", "I49.9"),
    (r"cardiac arrest", "I46.9"),
    (r"valv|aortic.*replacement|mitral", "I38"),
    (r"aneurysm|dissection", "I71.9"),
    (r"embol", "I26.9"),
    (r"hypertension", "I10"),
    (r"endocarditis|pericard|tamponade|effusion, pericardial", "I31.9"),
    (r"pneumonia", "J18.9"),
    (r"emphysema|COPD|bronchitis", "J44.9"),
    (r"asthma", "J45.9"),
    (r"ARDS|respiratory distress", "J80"),
    (r"bleeding|hemorrhage|varices", "K92.2"),
    (r"diabetic ketoacidosis|DKA|hyperglyc", "E14.1"),
    (r"overdose|toxicity|drug", "T50.9"),
    (r"renal failure", "N19"),
    (r"hepatic|cirrhosis", "K72.9"),
    (r"seizure", "R56.8"),
)
_SYSTEMS: Final = {
    "Cardiovascular": "I51.9",
    "Respiratory": "J98.9",
    "Neurology": "G96.9",
    "Gastrointestinal": "K92.9",
    "Metabolic/Endocrine": "E34.9",
    "Genitourinary": "N39.9",
    "Trauma": "T14.9",
    "Musculoskeletal/Skin": "M79.9",
    "Hematology": "D75.9",
}
_HISTORY: Final = _rules(
    (r"hypertension", "I10"),
    (r"myocardial infarction", "I25.2"),
    (r"congestive heart failure", "I50.9"),
    (r"atrial fibrillation", "I48.9"),
    (r"arrhythmias|sick sinus", "I49.9"),
    (r"peripheral vascular", "I73.9"),
    (r"coronary|angina", "I25.9"),
    (r"valve disease", "I38"),
    (r"pulmonary embolism", "I26.9"),
    (r"venous thrombosis", "I82.9"),
    (r"pacemaker|AICD", "Z95.0"),
    (r"stroke|TIA", "G45.9"),
    (r"sickle cell", "D57.1"),
    (r"hemolytic anemia", "D58.9"),
    (r"aplastic anemia", "D61.9"),
    (r"clotting disorder|hypercoagulable", "D68.9"),
    (r"insulin dependent diabetes", "E14.9"),
    (r"hypothyroidism", "E03.9"),
    (r"COPD", "J44.9"),
    (r"asthma", "J45.9"),
    (r"restrictive", "J84.1"),
    (r"home oxygen|respiratory failure", "J96.1"),
    (r"renal (failure|insufficiency)", "N18.9"),
    (r"renal transplant", "Z94.0"),
    (r"lung transplant", "Z94.2"),
    (r"cirrhosis", "K74.6"),
    (r"peptic ulcer", "K27.9"),
    (r"dementia", "F03"),
    (r"seizures", "G40.9"),
    (r"neuromuscular", "G70.9"),
    (r"rheumatoid", "M06.9"),
    (r"SLE|scleroderma|vasculitis|dermato", "M35.9"),
    (r"immunosuppression|steroid", "D84.9"),
    (r"HIV|AIDS", "B24"),
)


@lru_cache(maxsize=4_096)
def from_admission(path: str) -> tuple[str, ...]:
    """Codes of one `admitdxpath`; none for the form's other questions."""
    parts = path.split("|")
    if len(parts) < 5 or parts[1] != "All Diagnosis":
        return ()
    system, name = parts[4], parts[-1]
    code = _first(_CANCER, name) or _first(_ADMISSION, name) or _SYSTEMS.get(system)
    return (f"ICD10:{code}",) if code else ()


@lru_cache(maxsize=4_096)
def from_history(path: str) -> tuple[str, ...]:
    """Codes of one `pasthistorypath`."""
    _, found, item = path.partition("Organ Systems/")
    if not found:
        return ()
    code = _first(_CANCER, item) if "Hematology/Oncology (R)/Cancer" in item else None
    code = code or _first(_HISTORY, item)
    return (f"ICD10:{code}",) if code else ()


def _first(rules: _Rules, text: str) -> str | None:
    return next((code for pattern, code in rules if pattern.search(text)), None)
