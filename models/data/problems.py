"""eICU's words for what a patient came with and had before, as ICD-10 codes of a problem list.

APACHE's admission diagnoses and eICU's past history have no codes of their own. The codes here are
those a hospital would write for such a word, unspecified where the word is: a cancer that has
spread or is treated as cancer, any other of the past as personal history.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern, re.IGNORECASE), code) for pattern, code in pairs)


# The first rule that matches decides; an empty code says that there is nothing to say.
_CANCER: Final = _rules(
    (r"excluding malignanc|no cancer|without cancer", ""),
    (r"benign (tumor|neoplasm)", "D36.9"),
    (r"multiple myeloma", "C90.0"),
    (r"\bAML\b", "C92.0"),
    (r"\bALL\b(?! other)", "C91.0"),
    (r"\bCLL\b", "C91.1"),
    (r"\bCML\b", "C92.1"),
    (r"leukemia", "C95.9"),
    (r"non-?hodgkin|lymphoma", "C85.9"),
    (r"hodgkin", "C81.9"),
    (r"hematologic malignancy", "C96.9"),
    (r"metasta|carcinomatosis", "C79.9"),
    (r"lung.*(cancer|neoplasm)|(cancer|neoplasm).*lung", "C34.9"),
    (r"esophag.*cancer|cancer.*esophag", "C15.9"),
    (r"pancrea.*(cancer|carcinoma)|cancer.*pancrea", "C25.9"),
    (r"stomach.*cancer|cancer.*(stomach|gastric)", "C16.9"),
    (r"hepatoma|liver.*cancer|cancer.*(hepat|liver|gallbladder)", "C22.9"),
    (r"(colon|rectal|intestin).*cancer|cancer.*(colon|rect|intestin)", "C18.9"),
    (r"GI.*cancer|cancer.*GI", "C26.9"),
    (r"breast|mastectomy", "C50.9"),
    (r"prostate.*cancer|cancer.*prostate", "C61"),
    (r"cancer.*bladder", "C67.9"),
    (r"cancer.*(kidney|renal)|(nephrectomy|kidney|renal).*(cancer|neoplasm)", "C64.9"),
    (r"hysterectomy for cancer|(uter|ovar|cervi).*cancer|cancer.*(uter|ovar|cervi)", "C57.9"),
    (r"head and neck|laryn.*cancer|cancer.*(laryn|oral|tongue|neck)", "C76.0"),
    (r"melanoma", "C43.9"),
    (r"sarcoma", "C49.9"),
    (
        r"(cranial|neurologic|brain|spinal).*(neoplasm|cancer|tumor)"
        r"|(neoplasm|cancer|tumor).*(cranial|neuro|brain|spinal)",
        "C71.9",
    ),
    (r"cancer|neoplasm|tumor|malignan|carcinoma|chemotherapy", "C80.1"),
)
_ADMISSION: Final = _rules(
    (r"sepsis|septic", "A41.9"),
    (r"complications of prev.*open.?heart", "I97.8"),
    (r"complications of prev.*vasc", "T82.8"),
    (r"subarachnoid|intracranial aneurysm", "I60.9"),
    (r"fracture-pathological", "M84.4"),
    (r"\btrauma", "T14.9"),
    (r"subdural|epidural", "I62.0"),
    (r"intracerebral|intracranial", "I61.9"),
    (r"CVA|cerebrovascular accident/stroke", "I63.9"),
    (r"carotid", "I65.2"),
    (r"(?<!non-)cardiogenic", "R57.0"),
    (r"myocardial|\bMI\b|STEMI", "I21.9"),
    (r"angina, unstable", "I20.0"),
    (r"angina", "I20.9"),
    (r"CABG|coronary", "I25.1"),
    (r"congestive heart failure|\bCHF\b", "I50.9"),
    (r"cardiomyopathy", "I42.9"),
    (r"heart transplant", "I42.9"),
    (r"conduction|pacemaker", "I45.9"),
    (r"supraventricular|atrial", "I48.9"),
    (r"rhythm.*ventricular|defibrillator", "I47.2"),
    (r"rhythm|bradycard|tachycard", "I49.9"),
    (r"arrest, respiratory", "R09.2"),
    (r"cardiac arrest", "I46.9"),
    (r"aortic.*(valve|replacement)", "I35.9"),
    (r"mitral", "I34.9"),
    (r"tricuspid|valv", "I38"),
    (r"dissect", "I71.0"),
    (r"aneurysm", "I71.9"),
    (r"embolus, pulmonary|pulmonary embol", "I26.9"),
    (r"deep vein|vena cava", "I82.9"),
    (r"thromb|embol|bypass|femoral|aorto|endarterectomy|\bvascular (medical|surgery)", "I74.9"),
    (r"tamponade|pericard", "I31.9"),
    (r"endocarditis", "I33.0"),
    (r"eclampsia|cesarean", "O14.9"),
    (r"portal hypertension|varices", "I85.0"),
    (r"hypertension", "I16.9"),
    (r"hypovol|dehydrat", "E86.9"),
    (r"anaphyla", "T78.2"),
    (r"chest pain.*(musculo|atypical|epigastric)", "R07.8"),
    (r"chest pain", "R07.9"),
    (r"graft for dialysis", "N18.6"),
    (r"aspiration", "J69.0"),
    (r"pneumonia", "J18.9"),
    (r"emphysema|COPD|bronchitis", "J44.9"),
    (r"asthma", "J45.9"),
    (r"ARDS|respiratory distress", "J80"),
    (r"restrictive", "J84.1"),
    (r"pleural", "J90"),
    (r"pneumothorax", "J93.9"),
    (r"apnea", "G47.3"),
    (r"ketoacidosis|DKA", "E14.1"),
    (r"HHNC|hyperglyc", "E14.0"),
    (r"hypoglyc", "E16.2"),
    (r"acid-base|electrolyte", "E87.8"),
    (r"transphenoidal", "D35.2"),
    (r"hypothermia", "T68"),
    (r"withdrawal", "F10.3"),
    (r"overdose|toxicity|poison", "T50.9"),
    (r"coma|consciousness|encephalopath(y|ies) \(excl", "R40.2"),
    (r"seizure", "R56.8"),
    (r"encephalopathy, hepatic|hepatic|cirrhosis", "K72.9"),
    (r"encephalopath", "G93.4"),
    (r"encephalitis|mening", "G04.9"),
    (r"myasthenia|neuromuscular", "G70.9"),
    (r"lower GI", "K92.2"),
    (r"retroperitoneal", "K66.1"),
    (r"hemoptysis", "R04.2"),
    (r"renal bleeding", "R31"),
    (r"bleeding|hemorrhage", "K92.2"),
    (r"pancreatitis", "K85.9"),
    (r"chol(ecyst|ang)", "K83.0"),
    (r"perforation|peritonitis", "K63.1"),
    (r"obstruction-airway", "J98.8"),
    (r"GI obstruction", "K56.6"),
    (r"diverticul", "K57.9"),
    (r"renal failure", "N17.9"),
    (r"renal infection|UTI", "N39.0"),
    (r"prostatic hypertrophy", "N40"),
    (r"nephrolith", "N20.0"),
    (r"cellulitis", "L03.9"),
    (r"hip replacement|knee replacement", "M16.9"),
    (r"sickle", "D57.0"),
    (r"neutropenia", "D70"),
    (r"pancytopenia", "D61.8"),
    (r"anemia", "D64.9"),
    (r"kidney transplant", "N18.6"),
)
_BRACKETS: Final = re.compile(r" *\([^()]*\)?")
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
# A hospital codes a cancer that is treated or has spread as cancer, another as personal history.
_ONCOLOGY: Final = _rules(
    (r"Cancer/Metastases/.*lung", "C78.0"),
    (r"Cancer/Metastases/.*liver", "C78.7"),
    (r"Cancer/Metastases/.*bone", "C79.5"),
    (r"Cancer/Metastases/.*brain", "C79.3"),
    (r"Cancer/Metastases/.*nodes", "C77.9"),
    (r"Cancer/Metastases/.*carcinomatosis", "C78.6"),
    (r"Cancer/Metastases/", "C79.9"),
    (r"Radiation Therapy", "Z51.0"),
    (r"Chemotherapy/|BMT", "Z51.1"),
)
_SITES: Final = _rules(
    (r"prostate", "Z85.4"),
    (r"breast", "Z85.3"),
    (r"lung", "Z85.1"),
    (r"leukemia|\b(AML|ALL|CLL|CML)\b", "Z85.6"),
    (r"hodgkin|lymphoma|myeloma|hematologic", "Z85.7"),
    (r"colon|rect|stomach|esoph|pancrea|liver", "Z85.0"),
    (r"bladder|kidney", "Z85.5"),
    (r"ovar|uter|cervi|testes", "Z85.4"),
    (r"", "Z85.8"),
)
_HISTORY: Final = _rules(
    (r"hypertension", "I10"),
    (r"myocardial infarction", "I25.2"),
    (r"congestive heart failure", "I50.9"),
    (r"atrial fibrillation", "I48.9"),
    (r"ventricular (tachycardia|fibrillation)", "I47.2"),
    (r"sick sinus", "I49.5"),
    (r"arrhythmias", "I49.9"),
    (r"peripheral vascular", "I73.9"),
    (r"coronary artery bypass", "Z95.1"),
    (r"coronary intervention", "Z95.5"),
    (r"angina", "I20.9"),
    (r"s/p [AMT]VR", "Z95.2"),
    (r"Valve disease/A", "I35.9"),
    (r"Valve disease/M", "I34.9"),
    (r"valve disease", "I38"),
    (r"pulmonary embolism", "Z86.7"),
    (r"venous thrombosis", "Z86.7"),
    (r"AICD", "Z95.8"),
    (r"pacemaker", "Z95.0"),
    (r"\bstroke|\bTIA", "Z86.7"),
    (r"sickle cell", "D57.1"),
    (r"hemolytic anemia", "D58.9"),
    (r"aplastic anemia", "D61.9"),
    (r"clotting disorder|hypercoagulable", "D68.9"),
    (r"diabetes", "E14.9"),
    (r"hypothyroidism", "E03.9"),
    (r"hyperthyroidism", "E05.9"),
    (r"COPD", "J44.9"),
    (r"asthma", "J45.9"),
    (r"restrictive", "J84.1"),
    (r"sarcoidosis", "D86.9"),
    (r"home oxygen|respiratory failure", "J96.1"),
    (r"renal (failure|insufficiency)", "N18.9"),
    (r"kidney stones", "N20.0"),
    (r"neurogenic bladder", "N31.9"),
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
    if not name.startswith("Rhythm"):
        # What stands in brackets names what is not meant, or what else may be.
        name = _BRACKETS.sub("", name)
    code = _first(_CANCER, name) or _first(_ADMISSION, name) or _SYSTEMS.get(system)
    return (f"ICD10:{code}",) if code else ()


@lru_cache(maxsize=4_096)
def from_history(path: str) -> tuple[str, ...]:
    """Codes of one `pasthistorypath`."""
    _, found, item = path.partition("Organ Systems/")
    if not found:
        return ()
    if "Hematology/Oncology (R)/Cancer" in item:
        code = _first(_ONCOLOGY, item) or _first(_SITES, item.rpartition("/Cancer")[2])
    else:
        code = _first(_HISTORY, item)
    return (f"ICD10:{code}",) if code else ()


def _first(rules: _Rules, text: str) -> str | None:
    return next((code for pattern, code in rules if pattern.search(text)), None)
