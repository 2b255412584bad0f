"""The papers that code and lessons cite, as GB/T 7714-2015 and as BibTeX, with all authors."""
import json
import re

from .plan import HERE

RECORDS = json.loads((HERE / "references.json").read_text(encoding="utf-8"))
# what the table of equations calls a paper, where that is not its first author
NAMES = {"Switch": "fedus2022", "GLaM": "du2022", "GShard": "lepikhin2021", "T5": "raffel2020", "ST-MoE": "zoph2022",
         "Adam": "kingma2015", "AdamW": "loshchilov2019", "Adafactor": "shazeer2018", "nucleus sampling": "holtzman2020"}
ACL = "Association for Computational Linguistics"
# surnames of more than one word
SURNAMES = ("Le Scao", "de las Casas", "Bou Hanna", "Renard Lavaud", "El Sayed", "Riquelme Ruiz")
# a meeting: the title of its proceedings, and place and publisher where no series is given; [S.l.] and [s.n.]: not known
MEETINGS = {
    "ICML": ("International Conference on Machine Learning", "New York: ACM"),
    "ICLR": ("International Conference on Learning Representations", "[S.l.]: [s.n.]"),
    "NeurIPS": ("Advances in Neural Information Processing Systems", "Red Hook: Curran Associates"),
    "EMNLP": ("Conference on Empirical Methods in Natural Language Processing", f"Stroudsburg: {ACL}"),
    "ACL": (f"Annual Meeting of the {ACL}", f"Stroudsburg: {ACL}"),
}
TYPES = {"article": "[J]", "inproceedings": "[C]", "misc": "[EB/OL]"}         # GB/T 7714, appendix B


def of_key(key):
    """The record of a key.   Raises KeyError where there is none"""
    return {record["key"]: record for record in RECORDS}[key]


def of_lesson(n):
    """The records that a lesson points to."""
    return [record for record in RECORDS if n in record["lessons"]]


def cited(name):
    """The record that a name means: "Switch", "Kaplan et al.", "Patarasuk and Yuan 2009"; None where it means no paper.

    A year is that of the paper, or of its preprint, with which an arXiv number begins
    """
    if name in NAMES:
        return of_key(NAMES[name])
    first, year = re.match(r"([\w-]*)(?:.*\b(\d{4}))?", name).groups()
    found = [r for r in RECORDS if split(r["authors"][0])[0] == first]
    return next((r for r in found if year in (None, str(r["year"]), f"20{r['arxiv'][:2]}")), None)


def split(author):
    """(surname, given names) of an author."""
    surname = next((name for name in SURNAMES if author.endswith(" " + name)), author.split()[-1])
    return surname, author.removesuffix(surname).strip()


def venue(record):
    """What a venue says: its name, series, volume, number and pages, each as text, empty where it is not said.

    for example  "ICML (PMLR 80): 4596-4604", "Neural Computation 3(1): 79-87", "ICLR"
    """
    found = re.fullmatch(r"(?P<name>\D+?)"
                         r"(?: \((?P<series>\D+) (?P<of_series>\d+)\)| (?P<volume>\d+)(?:\((?P<number>\d+)\))?)?"
                         r"(?:: (?P<pages>\d+-\d+))?", record["venue"])
    said = {name: text or "" for name, text in found.groupdict().items()}
    return said | dict(volume=said["volume"] or said["of_series"])


def short(author):
    """KAISER Ł, VASWANI A, LE Q V: as GB/T 7714 writes an author: surname in capitals, initials without dots."""
    surname, given = split(author)
    return " ".join([surname.upper(), *(name[0].upper() for name in re.split(r"[ .-]+", given) if name)])


def gb7714(record, accessed):
    """A record as GB/T 7714-2015.

    record    one of RECORDS
    accessed  when the reader opened the web page, as in 2025-09-01: the standard asks for it where a source is online alone
    result    one line. Departs: all authors, where the standard allows the first three and "et al."
    """
    said = venue(record)
    line = f"{', '.join(map(short, record['authors']))}. {record['title']}{TYPES[record['kind']]}"
    if record["kind"] == "misc":
        posted = f"20{record['arxiv'][:2]}-{record['arxiv'][2:4]}"            # an arXiv number begins with its year and month
        return f"{line}. ({posted})[{accessed}]. https://arxiv.org/abs/{record['arxiv']}."
    if record["kind"] == "inproceedings":
        title, publisher = MEETINGS[said["name"]]
        line += f"//{title}. {'[S.l.]: ' + said['series'] if said['series'] else publisher}, {record['year']}"
    else:
        line += f". {said['name']}, {record['year']}, {said['volume']}" + (f"({said['number']})" if said["number"] else "")
    line += f": {said['pages']}" if said["pages"] else ""
    return line + (f". DOI:{record['doi']}." if record["doi"] else ".")


def bibtex(record):
    """A record as BibTeX in UTF-8, a field a line; titles stand in two braces, which keep their capitals."""
    said = venue(record)
    fields = dict(author=" and ".join(", ".join(split(author)) for author in record["authors"]), title="{" + record["title"] + "}")
    if record["kind"] == "article":
        fields["journal"] = said["name"]
    elif record["kind"] == "inproceedings":
        fields |= dict(booktitle=MEETINGS[said["name"]][0], series=said["series"])
    fields |= dict(volume=said["volume"], number=said["number"], pages=said["pages"].replace("-", "--"), year=str(record["year"]),
                   doi=record["doi"], eprint=record["arxiv"], archivePrefix="arXiv" if record["arxiv"] else "")
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{record['kind']}{{{record['key']},", *lines, "}"])
