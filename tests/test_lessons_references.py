"""The references: what code and lessons cite is there, and each record is whole in both styles."""
import re
from pathlib import Path

import pytest

from minimoe.lessons import atlas, lesson13, references
from minimoe.lessons.equations import EQUATIONS
from minimoe.lessons.references import RECORDS, bibtex, cited, gb7714, of_key, of_lesson, split, venue
from minimoe.lessons.words import LANGUAGES, Words

PACKAGE = Path(references.__file__).resolve().parent.parent
SOURCES = sorted(path for ending in ("py", "toml") for path in PACKAGE.rglob(f"*.{ending}"))
NAME = r"[A-Z][\w-]+"
each = pytest.mark.parametrize("record", RECORDS, ids=[record["key"] for record in RECORDS])


def texts():
    return [(path.name, path.read_text(encoding="utf-8")) for path in SOURCES]


def citations(text):
    """Every "A et al. YEAR", "A et al." and "A and B YEAR" of a text."""
    found = re.findall(rf"({NAME} et al\.)(?:,? \(?(\d{{4}})\b)?", text)
    return [" ".join(filter(None, one)) for one in found] + re.findall(rf"{NAME} and {NAME} \(?\d{{4}}\b", text)


def test_every_arxiv_number_in_code_and_lessons_is_in_the_list():
    known = {record["arxiv"] for record in RECORDS}
    found = [(name, number) for name, text in texts() for number in re.findall(r"arXiv[:\s]*(\d{4}\.\d{4,5})", text)]
    assert len({number for _, number in found}) > 15 and not [(name, number) for name, number in found if number not in known]


def test_everybody_who_is_cited_by_name_is_in_the_list():
    found = [(name, said) for name, text in texts() for said in citations(text)]
    assert {"Kaplan et al.", "Duchi et al. 2011", "Patarasuk and Yuan 2009"} <= {said for _, said in found}
    assert not [(name, said) for name, said in found if not cited(said.replace("(", ""))]


@pytest.mark.parametrize("wrong", ["Nobody et al.", "Kaplan et al. 1999", "Yuan and Patarasuk 2009", "the sparse layer", "-"])
def test_who_is_not_in_the_list_is_not_found(wrong):
    assert cited(wrong) is None


def test_every_equation_of_a_paper_has_its_record():
    without = {e.source for e in EQUATIONS if not cited(atlas.paper(e.source))}
    assert without == {"", "the sparse layer"}


def test_keys_and_numbers_are_used_once_and_lessons_exist():
    for name in ("key", "title"):
        assert len({record[name] for record in RECORDS}) == len(RECORDS)
    numbers = [record["arxiv"] for record in RECORDS if record["arxiv"]]
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= n <= 14 for record in RECORDS for n in record["lessons"])


@each
def test_a_record_is_whole(record):
    first, _ = split(record["authors"][0])
    assert re.fullmatch(r"[a-z]+\d{4}", record["key"]) and record["key"] == first.lower() + str(record["year"])
    assert record["title"] == record["title"].strip(" .") and record["lessons"] and set(record["why"]) == set(LANGUAGES)
    assert len(set(record["authors"])) == len(record["authors"])
    for author in record["authors"]:
        surname, given = split(author)
        assert surname and given and f"{given} {surname}" == author
    if record["kind"] == "misc":
        assert record["venue"] == "arXiv" and record["year"] == 2000 + int(record["arxiv"][:2])
    else:
        said = venue(record)
        assert said["name"] in references.MEETINGS if record["kind"] == "inproceedings" else said["volume"] and said["pages"]
        assert record["arxiv"] or record["doi"] or said["pages"]


@each
def test_gb7714_has_every_author_in_order_and_its_type(record):
    line = gb7714(record, "2025-09-01")
    people = line.split(f". {record['title']}[")[0].split(", ")
    assert len(people) == len(record["authors"]) and "et al" not in line and "\n" not in line
    for person, author in zip(people, record["authors"]):
        surname, given = split(author)
        last = re.split("[ .-]+", given.strip("."))[-1]
        assert person.startswith(surname.upper() + " ") and person.endswith(" " + last[0].upper()) and "." not in person
    assert f"{record['title']}{references.TYPES[record['kind']]}" in line and str(record["year"]) in line and line.endswith(".")
    assert ("[2025-09-01]. https://arxiv.org/abs/" + record["arxiv"] in line) == (record["kind"] == "misc")
    assert not re.search(r"\s\s|,,|\.\.|: \.|//\.", line)


@each
def test_bibtex_is_well_formed_and_reads_back(record):
    text = bibtex(record)
    depth = [text[:i].count("{") - text[:i].count("}") for i in range(1, len(text) + 1)]
    assert depth[-1] == 0 and all(d > 0 for d in depth[text.index("{"):-1]), "braces close at the end, and not before"
    kind, key, body = re.fullmatch(r"@(\w+)\{(\w+),\n(.*),\n\}", text, re.S).groups()
    fields = dict(re.fullmatch(r"  (\w+) = \{(.+)\}", line).groups() for line in body.split(",\n"))
    assert (kind, key) == (record["kind"], record["key"])
    assert [" ".join(reversed(one.split(", "))) for one in fields["author"].split(" and ")] == record["authors"]
    assert fields["title"] == "{" + record["title"] + "}" and fields["year"] == str(record["year"])
    assert fields.get("eprint", "") == record["arxiv"] and fields.get("doi", "") == record["doi"]
    assert {"article": "journal", "inproceedings": "booktitle", "misc": "eprint"}[kind] in fields
    assert re.fullmatch(r"\d+--\d+", fields.get("pages", "1--2"))


def test_styles_as_the_standard_writes_them():
    assert gb7714(of_key("fedus2022"), "") == (
        "FEDUS W, ZOPH B, SHAZEER N. Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity"
        "[J]. Journal of Machine Learning Research, 2022, 23(120): 1-39.")
    assert gb7714(of_key("shazeer2018"), "") == (
        "SHAZEER N, STERN M. Adafactor: Adaptive Learning Rates with Sublinear Memory Cost[C]//"
        "International Conference on Machine Learning. [S.l.]: PMLR, 2018: 4596-4604.")
    assert gb7714(of_key("shazeer2020"), "2025-09-01") == (
        "SHAZEER N. GLU Variants Improve Transformer[EB/OL]. (2020-02)[2025-09-01]. https://arxiv.org/abs/2002.05202.")
    assert references.short("Diego de las Casas") == "DE LAS CASAS D" and references.short("Lluis-Miquel Munguia") == "MUNGUIA L M"


@pytest.mark.parametrize("said, found", [
    ("ICML (PMLR 80): 4596-4604", ("ICML", "PMLR", "80", "", "4596-4604")),
    ("Neural Computation 3(1): 79-87", ("Neural Computation", "", "3", "1", "79-87")),
    ("Journal of Machine Learning Research 12: 2121-2159", ("Journal of Machine Learning Research", "", "12", "", "2121-2159")),
    ("ICML: 1113-1120", ("ICML", "", "", "", "1113-1120")), ("NeurIPS", ("NeurIPS", "", "", "", ""))])
def test_a_venue_is_taken_apart(said, found):
    assert tuple(venue(dict(venue=said))[name] for name in ("name", "series", "volume", "number", "pages")) == found


def test_lessons_7_to_12_have_further_reading():
    for n in range(7, 13):
        assert {"fedus2022", "du2022"} <= {record["key"] for record in of_lesson(n)}
    for lang in LANGUAGES:
        rows = lesson13.further(Words(13, lang)).rows
        assert {row[0] for row in rows} >= {"7-12", *map(str, range(7, 12))}
        assert len({row[2] for row in rows}) > 12 and all(row[4] for row in rows)


def test_the_graph_of_lesson_13_has_every_equation_in_a_room():
    links, files = lesson13.links()
    assert sum(links.values()) == len(EQUATIONS) and {room for _, room in links} == files.keys()
    names = [sorted({key[side] for key in links}) for side in (0, 1)]
    assert [*map(sorted, lesson13.orders())] == names

    def crossings(left, right):
        placed = [(left.index(a), right.index(b), n) for (a, b), n in links.items()]
        return sum(n * m for i, (a, b, n) in enumerate(placed) for c, d, m in placed[:i] if (a - c) * (b - d) < 0)

    assert crossings(*lesson13.orders()) < 0.5 * crossings(*names), "the order has a purpose"


def test_table_9_is_settled_by_arithmetic():
    """Swapped headers fit both printed numbers, the printed ones neither; Switch-XXL needs 128 experts."""
    rows = lesson13.table9(Words(13, "en")).rows
    off = [[abs(float(row[i].split()[0].replace(",", ""))) for i in (3, 6)] for row in rows]
    assert min(off[0]) > 15 and max(off[1]) < 1 and off[2][0] > 45 and max(off[3]) < 1
    assert round(lesson13.fitting()) == 128
