"""What a teacher's reasoning may not say, and the words that show or name each label. Patterns only, none with case.

They look for whole words in one sentence. Where a phrase is honest in one sense and not in the other, the sense that a
radiograph alone can support passes: "prior sternotomy" is read from its wires, "the prior film" is made up.
"""

from __future__ import annotations

# The answer was given, and the text says so.
BETRAYALS = (
    r"\bas (?:was |were )?(?:provided|given|supplied|indicated|labell?ed|instructed|requested|told)\b",
    r"\b(?:provided|given|supplied|assigned|known|true|target|reference|reported|ground[- ]truth) "
    r"(?:labels?|findings?|diagnos[ei]s|annotations?|answers?)\b",
    r"\b(?:labels?|annotations?|answer key) (?:\w+ )?"
    r"(?:says?|states?|indicates?|shows?|suggests?|confirms?|tells?|lists?|includes?|provided|given)\b",
    r"\b(?:according to|based on|consistent with|matches|in line with|per|given) the "
    r"(?:\w+ )?(?:labels?|annotations?|answers?|prompt|instructions?)\b",
    r"\bground[- ]truth\b",
    r"\bgold[- ]standard\b",
    r"\b(?:i was|i am|i'm|i have been|we were|you) (?:told|given|informed|instructed|asked)\b",
    r"\b(?:pretend|as if (?:i|we) did not know|without knowing the)\b",
    r"\bthe (?:correct|expected|right|required) (?:answer|labels?|output|solution)\b",
    r"\b(?:the|this|your) (?:prompt|user|instructions?|question)\b",
    r"\bdata ?set\b",
)

PRIORS = (
    r"\b(?:prior|previous|earlier|preceding|last|old|older|former|outside)"
    r" (?:\w+ )?(?:exam\w*|stud(?:y|ies)|films?|radiographs?|x-?rays?|images?|imaging|ct|scans?|reports?)\b",
    r"\b(?:compared|comparison|relative) (?:to|with)(?: the)? (?:prior|previous|earlier|last|baseline|preceding)\b",
    r"\b(?:unchanged|redemonstrat\w+|again (?:seen|noted|demonstrated)|(?<!un)stable|persist(?:s|ent|ing|ence))\b",
    r"\binterval (?:\w+ )?(?:change|increase|decrease|improvement|worsening|development|resolution|placement)\b",
    r"\b(?:has|have) (?:\w+ )?(?:increased|decreased|improved|worsened|progressed|resolved|developed|changed|grown)\b",
    r"\bnew(?:ly)? (?:\w+ )?(?:since|opacit\w+|consolidations?|effusions?|nodules?|infiltrates?|findings?|lesions?)\b",
    r"\b(?:since|from) the (?:\w+ )?(?:exam\w*|study|film|radiograph|x-?ray)\b",
    r"\bfollow-?up (?:exam\w*|study|film|radiograph|of)\b",
)
# Honest: it says that there is nothing to compare with.
NO_PRIOR = r"\b(?:no|without)(?: any)? (?:prior|previous|earlier|comparison)[^.;]*"

_MONTH = r"(?:jan|febr|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*"
DATES = (
    r"\b\d{1,2}[/.]\d{1,2}[/.](?:\d{4}|\d{2})\b",
    r"\b(?:19|20)\d{2}-\d{1,2}-\d{1,2}\b",
    r"\b(?:in|since|from|of|dated|on) (?:19|20)\d{2}\b",
    rf"\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?\b|\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}\b",
    rf"\b{_MONTH} (?:19|20)\d{{2}}\b",
    r"\b(?:yesterday|today|tonight|last (?:night|week|month|year))\b",
    r"\b\d+ (?:days?|weeks?|months?|years?) (?:ago|earlier)\b",
    r"\b\d{1,2}:\d{2} ?(?:am|pm|hours|hrs)\b",
)

# A person, or a fact about one that no image shows. Case matters for the names after a title.
NAMES = (
    r"\b(?:mr|mrs|ms|dr|prof)\. ?(?-i:[A-Z])",
    r"\b(?:doctor|professor|nurse) (?-i:[A-Z][a-z])",
    r"\b(?:patient(?:'s)? (?:name|id)|mrn|accession|medical record)\b",
    r"\b(?:dictated|signed|reported|interpreted|read) by\b",
    r"\[\*\*|_{3,}",  # the marks of de-identified reports
    r"\b\d{1,3}[- ]years?[- ]old\b",
    r"\b(?:history of|presents? with|presenting with|presented with|clinical (?:history|indication|information))\b",
)

# Sign or name of each label. "No Finding" is affirmed by denials; every other label needs a clause that does not deny.
SIGNS = {
    "Atelectasis": r"atelecta|volume loss|loss of (?:lung )?volume|collapse|crowd(?:ed|ing)|(?:linear|plate-?like|band)"
    r"|(?:raised|elevated) \w*\s?(?:hemi)?diaphragm|(?:displace|shift)\w*",
    "Cardiomegaly": r"cardiomegal|(?:cardiac|heart)[^.;]{0,40}(?:large|increased|wide|prominent|more than half|exceed)"
    r"|(?:enlarge|large|wide)\w*[^.;,]{0,20}(?:heart|cardiac)|cardiothoracic ratio",
    "Consolidation": r"consolidat|bronchogram|(?:dense|filling)[^.;]{0,30}(?:opaci|airspace|air space|area)|hepatiz",
    "Edema": r"o?edema|congesti|kerley|septal (?:line|thick)|interstitial (?:line|thick|mark)|perihilar haz|cephali[sz]"
    r"|(?:bronchial|peribronchial) cuff|vessels? (?:\w+ ){0,3}(?:blurred|indistinct)|thick vessels|indistinct",
    "Enlarged Cardiomediastinum": r"(?:wide|widen|enlarge|broad|prominent)[^.;]{0,40}(?:mediastin|aort)"
    r"|(?:cardio)?mediastin[^.;]{0,40}(?:wide|widen|enlarge|broad|prominent|abnormal)",
    "Fracture": r"fractur|broken|(?:step|gap|break|discontinuity|irregularity) (?:in|of|along)|displaced (?:edge|rib)"
    r"|cortical (?:break|disrupt|step)|callus",
    "Lung Lesion": r"nodul|lesion|\bmass(?:es)?\b|cavit|\bround(?:ed)?\b|coin",
    "Lung Opacity": r"opaci|haz[ey]|shadow|infiltrat|densit|air ?space|ground[- ]glass|consolidat|whiten|atelecta",
    "Pleural Effusion": r"effusion|pleural fluid|fluid|blunt|meniscus|obscured (?:\w+ )?costophrenic|layering",
    "Pleural Other": r"pleural (?:\w+ )?(?:thicken|plaque|calcif|mass|cap|band|scar)|thicken\w* (?:of (?:the )?)?pleura"
    r"|apical cap|plaque|fibrothorax|bright band",
    "Pneumonia": r"pneumoni|infect|patch|inflammat",
    "Pneumothorax": r"pneumothora|(?:free|pleural) air|(?:visceral )?pleural (?:line|edge)"
    r"|(?:absent|absence of|no|without)[^.;,]{0,20}(?:lung|vascular) markings|deep sulcus|dark zone",
    "Support Devices": r"device|hardware|tube|catheter|\blines?\b|lead|pacemaker|pacer|defibrillator|\bicd\b|wire|clip"
    r"|\bport\b|drain|valve|stent|implant|prosthe|picc|swan",
    "No Finding": r"normal|clear|unremarkable|no (?:acute |active |sign of |evidence of )*(?:\w+ )?"
    r"(?:disease|abnormalit|process|finding|patholog)|within normal limits|free of disease",
}
# What turns a clause into a denial of all that follows it, and of all that stands before it.
DENIES_AFTER = (
    r"\b(?:no|not|without|absence of|absent|free of|negative for|neither|nor|lacks?|rules? out|excludes?|denies)\b"
)
DENIES_BEFORE = (
    r"\b(?:is|are|was|were) (?:not|absent|excluded|ruled out|unlikely)\b|\bunlikely\b|: (?:absent|none|no)\b"
)
CLAUSE = r"(?<=\w)[.;]\s+|\n+|,? (?:but|however|although|though|whereas|while)\b"

# Function words tell the language: a quarter of English prose, a twentieth of the tersest checklist.
ENGLISH = (
    r"\b(?:the|of|and|is|are|an?|in|to|with|that|there|no|not|on|at|by|for|from|this|as|it|which|or|be|both|each|i)\b"
)
FOREIGN = (
    r"\b(?:der|das|und|ist|sind|eine?r?|mit|nicht|keine?|im|auf|les?|la|du|et|est|une|avec|pas|dans|sur|el|los|las|y|es"
    r"|una?|con|sin|del|il|lo|gli|di|che|e|non|per|o|os|uma?|com|sem|do|da|em|het|een|van|geen|niet|met)\b"
)
