"""Defined terms of the standard for coded strings (VR CS): what stays in one must be one of them.

A coded string has room for sixteen letters, and people write names there. The terms are those that PS3.3 gives
for radiographs and the modules around them, body parts those of PS3.16 annex L, with a few words for views and
sides that devices write. A name that is such a term ("Head") tells nothing where the term is meant.
"""

from __future__ import annotations

import re

_BODY_PARTS = frozenset(["ABDOMEN", "ABDOMENPELVIS", "ACJOINT", "ADRENAL", "ANKLE", "AORTA", "ARM", "AXILLA", "BACK", "BILEDUCT", "BLADDER", "BRAIN", "BREAST", "BRONCHUS", "BUTTOCK", "CALCANEUS", "CALF", "CAROTID", "CEREBELLUM", "CERVIX", "CHEEK", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CIRCLEOFWILLIS", "CLAVICLE", "COCCYX", "COLON", "CORNEA", "CORONARYARTERY", "CSPINE", "CTSPINE", "DUODENUM", "EAR", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "EYELID", "FACE", "FEMUR", "FIBULA", "FINGER", "FOOT", "FOREARM", "GALLBLADDER", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "IAC", "ILEUM", "ILIUM", "JAW", "JEJUNUM", "KIDNEY", "KNEE", "LARYNX", "LEG", "LIVER", "LSPINE", "LSSPINE", "LUNG", "LUNGS", "MANDIBLE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "ORBIT", "OVARY", "PANCREAS", "PAROTID", "PATELLA", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RADIUS", "RADIUSULNA", "RECTUM", "RIB", "RIBS", "SACRUM", "SCALP", "SCAPULA", "SCLERA", "SCROTUM", "SHOULDER", "SINUS", "SIJOINT", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "SUBMANDIBULAR", "TESTIS", "THIGH", "THORAX", "THUMB", "THYMUS", "THYROID", "TIBIA", "TIBIAFIBULA", "TLSPINE", "TMJ", "TOE", "TONGUE", "TORAX", "TRACHEA", "TSPINE", "ULNA", "URETER", "URETHRA", "UTERUS", "VAGINA", "VULVA", "WHOLEBODY", "WRIST", "ZYGOMA"])  # fmt: skip

_VIEWS = frozenset(["AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LAT", "LATERAL", "LEFT", "RIGHT", "BILATERAL", "FRONTAL", "OBLIQUE", "OBL", "DECUBITUS", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "PORTABLE", "UPPER", "LOWER", "L", "R", "ANTERO-POSTERIOR", "POSTERO-ANTERIOR", "ML", "MLO", "LM", "LMO", "CC", "FB", "SIO", "ISO", "XCC", "XCCL", "XCCM"])  # fmt: skip

_TERMS = _VIEWS | frozenset(
    term.replace("~", " ")
    for term in ["YES", "NO", "Y", "N", "00", "01", "UNKNOWN", "NONE", "OTHER", "ON", "OFF", "NORMAL", "BOTH", "B", "U", "M", "F", "O", "AR", "AS", "AU", "BDUS", "BI", "BMD", "CD", "CF", "CP", "CR", "CS", "CT", "DD", "DF", "DG", "DM", "DR", "DS", "DX", "EC", "ECG", "EPS", "ES", "FA", "FID", "FS", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LP", "LS", "MA", "MG", "MR", "MS", "NM", "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPV", "OSS", "OT", "PLAN", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "SRF", "ST", "STAIN", "TG", "US", "VA", "VF", "XA", "XC", "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "LOCALIZER", "AXIAL", "SINGLE~PLANE", "BIPLANE~A", "BIPLANE~B", "MIXED", "POST_PROCESSED", "DV", "DI", "DRW", "SD", "SI", "SYN", "WSD", "FOR~PRESENTATION", "FOR~PROCESSING", "MONOCHROME1", "MONOCHROME2", "PALETTE~COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "MONOCHROME", "COLOR", "TRUE_COLOR", "LIN", "LOG", "DISP", "IDENTITY", "INVERSE", "LINEAR", "LINEAR_EXACT", "SIGMOID", "GEOMETRY", "FIDUCIAL", "ISO_10918_1", "ISO_13818_2", "ISO_14495_1", "ISO_14496_10", "ISO_15444_1", "ISO_15444_15", "ISO_23008_2", "HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS", "LFP", "LFS", "RFP", "RFS", "AFDR", "AFDL", "PFDR", "PFDL", "FIXED", "FOCUSED", "RECIPROCATING", "PARALLEL", "CROSSED", "STRIP", "WEDGE", "BUTTERFLY", "MULTIPLE", "FLAT", "SHAPED", "ALUMINUM", "COPPER", "EUROPIUM", "LEAD", "MOLYBDENUM", "NIOBIUM", "RHODIUM", "SILVER", "TANTALUM", "TIN", "TUNGSTEN", "RECTANGULAR", "CIRCULAR", "POLYGONAL", "BITMAP", "RECTANGLE", "ROUND", "HEXAGONAL", "DIRECT", "SCINTILLATOR", "STORAGE", "FILM", "AREA", "SLOT", "MANUAL", "AUTOMATIC", "ABORTED", "LANDSCAPE", "PORTRAIT", "18CMX24CM", "8INX10IN", "24CMX30CM", "10INX12IN", "30CMX35CM", "30CMX40CM", "11INX14IN", "35CMX35CM", "14INX14IN", "35CMX43CM", "14INX17IN", "CARM", "COLUMN", "MAMMOGRAPHIC", "PANORAMIC", "CEPHALOSTAT", "RIGID", "STATIC", "DYNAMIC", "TILTING", "STATIONARY", "GR", "CONTINUOUS", "PULSED", "SINGLE~PHASE", "THREE~PHASE", "CONST~POTENTIAL", "PRODUCT", "RESEARCH", "SERVICE", "VOLUME", "SAMPLED", "DISTORTED", "MAGNITUDE", "ALTERED", "UNALTERED", "REMOVED", "MODIFIED", "UNMODIFIED", "BLACK", "WHITE", "REVERSE", "CW", "CC", "OD", "HU", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"]
)  # fmt: skip

_CHARACTER_SET, _BODY_PART, _ORIENTATION = 0x00080005, 0x00180015, 0x00200020
_DIRECTIONS = re.compile(r"[LRAPHF]{1,3}")  # PS3.3 C.7.6.1.1.1


def is_defined_term(tag: int, value: str) -> bool:
    """Whether a value is one that the standard defines, in whatever case; "" is."""
    value = value.strip(" \0").upper()
    if not value:
        return True
    if tag == _CHARACTER_SET:
        from pydicom.charset import python_encoding

        return value in python_encoding
    if tag == _ORIENTATION:
        return bool(_DIRECTIONS.fullmatch(value))
    if tag == _BODY_PART:
        return all(word in _BODY_PARTS or word in _VIEWS for word in re.split(r"[ _]+", value))
    return value in _TERMS
