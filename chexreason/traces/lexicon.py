"""What a teacher's reasoning may not say, and the words that show or name each label. Patterns only, none with case.

They look for whole words in one sentence. Where a phrase is honest in one sense and not in the other, the sense that a
radiograph alone can support passes: "prior sternotomy" is read from its wires, "the prior film" is made up.
"""

from __future__ import annotations

_ANSWER = r"(?:labels?|annotations?|answers?|solution|diagnos[ei]s)"
# A reader may say of these that they were given or not; of a finding only someone who was told it can.
_MATERIAL = (
    r"(?:views?|laterals?|projections?|positions?|orientation|technique|images?|films?|radiographs?|exam\w*|priors?"
    r"|stud(?:y|ies)|comparisons?|markers?|histor(?:y|ies)|information|indication|context|data|details?|age|sex)\b"
)
# The reasoning's own: "stated by the image", "the findings above".
_OWN = r"(?! (?:by|above|below|earlier|before|to)\b)"
# The answer was given, and the text says so.
BETRAYALS = (
    r"\bas (?:was |were )?(?:provided|given|supplied|stated|mentioned|specified|listed|indicated|labell?ed|instructed"
    rf"|requested|told)\b{_OWN}",
    r"(?<!above[- ])\b(?:provided|given|supplied|assigned|known|target|reference|reported|listed|stated|mentioned"
    r"|specified|named|indicated|required|requested|applicable|ground[- ]truth) "
    rf"(?:{_ANSWER}|findings?|information|conditions?|list)\b",
    rf"\bthe (?:(?:correct|expected|right|required|actual|true) (?:{_ANSWER}|output)|true findings?)\b",
    r"\bthe (?:correct|expected|actual) findings?\b(?! of)",
    r"\b(?:findings?|diagnos[ei]s|conditions?|information|labels?) (?:(?:is|are|was|were|has been|have been) )?"
    r"(?:given(?! (?:the|this|that|an?|its|how)\b)|provided|supplied|listed|mentioned|specified"
    rf"|(?:that|which) appl(?:y|ies)|to (?:be )?(?:list|report)(?:ed)?)\b{_OWN}",
    rf"\b(?!{_MATERIAL})\w+ (?:is|are|was|were|has been|have been) (?:not |only |also )?"
    rf"(?:given|provided|specified|listed|mentioned|stated|reported)\b{_OWN}",
    r"\b(?:labels?|annotations?|answer key|solution|question|report) (?:\w+ )?"
    r"(?:says?|states?|indicates?|shows?|suggests?|confirms?|tells?|lists?|includes?|mentions?|gives?|asks?|describes?"
    r"|expects?|requires?|should|must|provided|given)\b",
    r"\bfindings? (?:says?|states?|tells?)\b|\banswer (?:should|must)\b|\bknown to be present\b",
    r"\b(?:since|because|as) the (?:labels?|answers?|diagnos[ei]s) (?:is|are)\b",
    r"\b(?:according to|based on|consistent with|matches|in line with|per|given"
    r"|(?:stated|indicated|listed|given|provided|confirmed|suggested) (?:by|in)) the "
    r"(?:\w+ )?(?:labels?|annotations?|answers?|solution|question|report|list)\b",
    r"\b(?:according to|based on|per|given) the (?:diagnos[ei]s\b|(?:findings?|information)\b"
    r"(?! (?:above|described|seen|noted|observed|visible|so far|of|on|in|at)\b))",
    r"\bground[- ]truth\b",
    r"\bgold[- ]standard\b",
    r"\b(?:i was|i am|i'm|i have been|i've been|we were|we are|you) "
    r"(?:told|given|gave|provided|listed|informed|instructed|asked|supposed|required|expected)\b",
    r"\b(?:told|given|provided|supplied) (?:to )?(?:me|us)\b",
    r"\bi (?:should|must|have to|need to) (?:\w+ )?(?:list|justify|arrive|pretend|not (?:mention|hint|reveal|say))\b",
    r"\b(?:know|knowing|known) (?:that )?(?:there (?:is|are)|the (?:findings?|diagnos[ei]s|answers?|labels?))\b",
    r"\b(?:pretend|as if (?:i|we) (?:did not|didn't) know|without knowing the)\b",
    r"\b(?:the|this|your) (?:prompt|user|instructions?|task)\b",
    r"\b(?:pupils?|students?|model answer|nobody judged|labell?ed (?:as (?:having|showing)|positive))\b",
    r"\bdata ?set\b",
)

_EARLIER = r"(?:prior|previous|earlier|preceding|last|old|older|former)"
_EXAM = r"(?:exam\w*|stud(?:y|ies)|films?|radiographs?|x-?rays?|images?|imaging|ct|scans?|reports?)\b"
PRIORS = (
    rf"\b{_EARLIER} (?:\w+ )?{_EXAM}",
    r"\b(?:compared|comparison|relative) (?:to|with)(?: the)? (?:prior|previous|earlier|last|baseline|preceding)\b",
    r"\b(?:unchanged|redemonstrat\w+|again (?:seen|noted|demonstrated)|(?<!un)stable|persist(?:s|ent|ing|ence))\b",
    r"\b(?:worsening|improving|resolving|no longer (?:seen|present)|in the (?:interval|interim))\b",
    r"\bpreviously\b(?! (?:mentioned|healed|placed|implanted|operated))",
    r"\b(?:than|as|from|noted|seen|described) before\b",
    r"\b(?:is|are) (?:new|now (?:larger|smaller|wider|more|less|worse|better|gone))\b",
    r"\binterval (?:\w+ )?(?:change|increase|decrease|improvement|worsening|development|resolution|placement)\b",
    r"\b(?:has|have) (?:\w+ )?(?:improved|worsened|progressed|resolved|developed|changed|grown|cleared)\b",
    # "Has increased opacity" is what one film shows, "has increased in size" is not.
    r"\b(?:has|have) (?:\w+ )?(?:increased|decreased)(?=$|[.,;:]| (?:in|since|from|compared|over|by|to|now|\w+ly)\b)",
    r"\bnew(?:ly)? (?:\w+ )?(?:since|opacit\w+|consolidations?|effusions?|nodules?|infiltrates?|findings?|lesions?"
    r"|pneumothora\w+|fractures?|edema|atelectasis)\b",
    rf"\bsince the (?:\w+ )?{_EXAM}",
    rf"\b(?:this|the|on|at) follow-?up {_EXAM}|\bfollow-?up of\b",
)
# Honest: it says that there is nothing to compare with.
NO_PRIOR = (
    rf"\b(?:no|without|absence of|lack of) (?:(?:any|an?|comparison (?:to|with)) )?{_EARLIER} (?:\w+ ){{0,2}}{_EXAM}"
    rf"|\b(?:comparison (?:to|with) )?{_EARLIER} (?:\w+ )?{_EXAM} (?:for comparison )?(?:would|could|might"
    r"|(?:is|are|was|were) (?:not (?:available|possible|given|provided)|unavailable|absent|lacking|advised))\b"
)

# A month in small letters is no "may": "rib 8 may be broken".
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|(?-i:May)|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b"
)
DATES = (
    r"\b\d{1,2}[/.]\d{1,2}[/.](?:\d{4}|\d{2})\b",
    r"\b\d{1,2}-\d{1,2}-(?:19|20)\d{2}\b",
    r"\b(?:19|20)\d{2}[-/.]\d{1,2}[-/.]\d{1,2}\b",
    r"\b(?:in|since|from|of|dated|on) (?:(?:early|mid|late)[- ])?(?:19|20)\d{2}\b",
    rf"\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?\b|\b\d{{1,2}}(?:st|nd|rd|th)?[- ](?:of )?{_MONTH}",
    rf"\b{_MONTH},? (?:19|20)\d{{2}}\b|\b(?:in|since|from|last) {_MONTH}",
    r"\b(?:yesterday|today|tonight|overnight|this (?:morning|afternoon|evening)|(?:mon|tues|wednes|thurs|fri|satur|sun)"
    r"day)\b",
    r"\b(?:last|past) (?:\w+ )?(?:night|hours?|days?|weeks?|months?|years?)\b",
    r"\b(?:hours?|days?|weeks?|months?|years?) (?:ago|earlier|later|before|prior)\b",
    r"\b\d{1,2}:\d{2} ?(?:am|pm|hours|hrs)\b",
)

# A person, or a fact about one that no image shows. Case matters for titles and the names after them.
NAMES = (
    r"\b(?:mr|mrs|ms|dr|prof)\. ?(?-i:[A-Z])|\b(?-i:(?:Mr|Mrs|Ms|Dr|Prof) [A-Z])",
    r"\b(?:doctor|professor|nurse) (?-i:[A-Z][a-z])",
    r"\b(?:patient(?:'s)? (?:name|id)|mrn|accession|medical record)\b",
    r"\b(?:dictated|signed|reported|interpreted|read) by\b",
    r"\[\*\*|_{3,}",  # the marks of de-identified reports
    r"\byear[- ]old\b|\b\d{1,3}[- ]?(?:years?[- ]?old|yrs?[- ]?old|y[./]?o)\b|\bage(?:d| of)? \d",
    r"\b(?:history of|presents? with|presenting with|presented with"
    r"|(?<!no )(?<!without )clinical (?:history|indication|information))\b",
)

# Between two words of one sign: no denial, no word of health and no new subject.
_GAP = r"(?:(?!\b(?:not(?! only)|no|nor|without|normal|usual|clear|and (?:there|an?))\b|n't\b)[^.;]){0,40}"
# After a word that also names what is healthy or heads a step of the checklist.
_SHOWN = r"(?!\w*\W*:)(?![^.;,]*\b(?:normal|usual|clear|unremarkable)\b)"
# Sign or name of each label. "No Finding" is affirmed by denials; every other label needs a clause that does not deny.
SIGNS = {
    "Atelectasis": r"atelecta|volume loss|loss of (?:lung )?volume|collapse|crowd(?:ed|ing|s)|\bband"
    r"|(?:linear|plate-?like) (?:\w+ )?(?:opaci|densit|shadow|streak|area|scar)"
    r"|(?:raised|elevat\w+|displace\w*|shift\w*) (?:of (?:the )?)?(?:\w+ )?(?:(?:hemi)?diaphragm|fissure|hil|trachea"
    rf"|mediastin)|(?:diaphragm|fissure|\bhil|trachea|mediastin){_GAP}(?:raised|elevated|displaced|shifted|drawn|pulled)",
    "Cardiomegaly": rf"cardiomegal|(?:cardiac|heart|cardiomediastin){_GAP}(?:large|big|increased|wide|prominent"
    r"|(?:more|greater) than half|exceed)|(?:enlarge\w*|large|wide\w*),? (?:of (?:the )?)?(?:\w+ )?(?:heart|cardiac)"
    r"|cardiothoracic ratio(?![^;]{0,60}\b(?:below|less|under|within|not)\b)[^;\d]{0,60}(?:increased|elevated"
    r"|enlarged|abnormal|above|exceed|greater|larger|more than|over|0?\.[5-9]|[5-9]\d ?(?:%|per))",
    "Consolidation": rf"consolidat|bronchogram|(?:dense|filling){_GAP}(?:opaci|airspace|air space|area)|hepatiz",
    "Edema": rf"o?edema|congesti|kerley|septal (?:line|thick)|interstitial (?:line|thick|mark{_SHOWN})|perihilar haz"
    r"|cephali[sz]|(?:bronchial|peribronchial) cuff|vessels? (?:\w+ ){0,3}(?:blurred|indistinct)|thick vessels"
    r"|indistinct",
    "Enlarged Cardiomediastinum": rf"(?:wide|enlarge|broad|prominent){_GAP}(?:mediastin|aort){_SHOWN}"
    rf"|(?:mediastin|aort){_GAP}(?:wide|enlarge|broad|prominent|abnormal)",
    "Fracture": r"fractur|broken|(?<!next )\b(?:step|gap|break|discontinuity|irregularity) (?:in|of|along) "
    r"(?:(?!is\b|are\b)[\w-]+ ){0,6}(?:rib|clavic|cort|bon[ey]|humer|scapul|verteb|stern)|displaced (?:edge|rib)"
    r"|cortical (?:break|disrupt|step)|callus",
    "Lung Lesion": r"nodul|lesion|\bmass(?:es)?\b|cavitat|\b(?!thora|pleura|chest|abdom|periton)\w+ cavit|\bcoin\b"
    r"|\bround(?:ed)? (?:\w+ )?(?:opaci|shadow|densit|focus|area)",
    "Lung Opacity": r"opaci|\bhaz[ey]|infiltrat|ground[- ]glass|consolidat|whiten|\bveil|atelecta"
    r"|\b(?!heart|cardi|mediastin|central|hil|breast|nipple|bon|metal|normal|usual)\w+ (?:shadow|densit)"
    rf"{_SHOWN}|air ?space{_SHOWN}",
    "Pleural Effusion": r"effusion|pleural fluid|fluid|blunt|meniscus|layering|obscured (?:\w+ )?costophrenic"
    rf"|costophrenic{_GAP}(?:obscured|obliterated|effaced|lost)",
    "Pleural Other": r"pleural (?:\w+ )?(?:thicken|plaque|calcif|mass|cap|band|scar)|thicken\w* (?:of (?:the )?)?pleura"
    r"|pleura (?:is|appears) (?:\w+ )?thick|apical cap|plaque|fibrothorax|bright band",
    "Pneumonia": rf"pneumoni|infect|patch|inflammat{_SHOWN}",
    "Pneumothorax": r"pneumothora|(?:free|pleural) air|(?:visceral )?pleural (?:line|edge)|deep sulcus|dark zone"
    r"|(?:absent|absence of|no|without) (?:visible |peripheral |any )?(?:lung|vascular) markings"
    r"|(?:lung|vascular) markings (?:are )?(?:absent|not seen|lost)",
    "Support Devices": r"device|hardware|\btub(?:es?|ing)\b|catheter|\bleads?\b(?! (?:up )?to\b| me\b| us\b)|pacemaker"
    r"|pacer|defibrillator|\bicd\b|\bwires?\b|\bclips?\b|\bport\b|\bdrains?\b|valve|\bstent|implant|prosthe|\bpicc\b"
    r"|swan|electrode|cannula|(?:central|venous|arterial|access|jugular|subclavian|femoral|intravenous|dialysis"
    r"|monitoring|support|\biv|\bij) (?:\w+ )?lines?\b|\blines?\b[^.;]{0,40}(?:vena cava|\bsvc\b|atri)",
    "No Finding": r"\bnormal\b|\bclear\b|unremarkable|free of|nothing (?:\w+ )?abnormal"
    r"|\b(?:no|without) (?:\w+ ){0,5}(?:disease|abnormalit|process|finding|patholog)",
}
# What turns a clause into a denial of all that follows it, and of all that stands before it.
DENIES_AFTER = (
    r"\b(?:no(?! doubt)|not(?! only)|cannot|\w+n't|without|absence of|absent|free of"
    r"|negative for|neither|nor|lacks?|rules? out|excludes?|denies|(?:rather than|instead of)(?!.*,))\b"
)
DENIES_BEFORE = (
    r"^(?:(?! and the\b).)*?(?:(?:\b(?:not|cannot)|n't) (?:be )?(?:\w+ly )?(?:seen|present|visible|visuali[sz]ed"
    r"|identified|evident|detected|noted|found|apparent|demonstrated|appreciated|observed|shown|suspected|suggested"
    r"|supported|confirmed|likely|there)\b|\b(?:is|are|was|were) (?:absent|excluded|ruled out)\b"
    r"|\bunlikely\b|: (?:absent|none|no|nil|negative)\b)"
)
# What turns "normal" into its opposite.
DENIES_NORMAL = r"(?:\b(?:not|nor|neither|never)|n't) (?:(?!and\b)\w+ ){0,2}$"
# Words that open a statement of its own after a comma.
_OPENS = (
    r"(?:the|there|its?|this|these|both|i|small|mild|moderate|large|marked|severe|minimal|trace|subtle|slight|left|right"
    r"|bilateral|patchy)\b"
)
# What is denied in one clause is open in the next: "no air, and the angle is blunted" has two, "no air, effusion and
# fracture" has one.
CLAUSE = (
    r"[.;]\s+|\n+|,? (?:but|however|although|though|whereas|while|due to|because|except|apart from|other than)\b"
    rf"|, (?:(?:and|yet|with|so) )?(?={_OPENS})|, (?:and|yet|with|so) (?=an?\b)|,? (?:and|yet) (?=there\b|its\b)"
    r"|, (?=(?:suggesting|indicating|consistent with|compatible with|in keeping with|obscured by)\b)"
)

# Function words tell the language: a quarter of English prose, a twentieth of the tersest checklist.
ENGLISH = (
    r"\b(?:the|of|and|is|are|an?|in|to|with|that|there|no|not|on|at|by|for|from|this|as|it|which|or|be|both|each|i)\b"
)
FOREIGN = (
    r"\b(?:der|das|und|ist|sind|eine?r?|mit|nicht|keine?|im|auf|les?|la|du|et|est|une|avec|pas|dans|sur|el|los|las|y|es"
    r"|una?|con|sin|del|il|lo|gli|di|che|e|non|per|o|os|uma?|com|sem|do|da|em|het|een|van|geen|niet|met)\b"
)
