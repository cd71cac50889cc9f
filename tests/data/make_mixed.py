"""Makes the binary files of tests/data/mixed, with the standard library alone: python tests/data/make_mixed.py.

Every byte is fixed, so that the result is the same on each machine.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent / "mixed"

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
P = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
RELS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def archive(name: str, members: dict[str, str]) -> None:
    """A zip file with the same bytes each time."""
    with zipfile.ZipFile(FOLDER / name, "w") as out:
        for member, text in members.items():
            entry = zipfile.ZipInfo(member, (2024, 1, 1, 0, 0, 0))
            stored = member == "mimetype"
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            out.writestr(entry, text)


def relations(*items: tuple[str, str, str]) -> str:
    rows = "".join(f'<Relationship Id="{i}" Type="{OFFICE}/{kind}" Target="{to}"/>' for i, kind, to in items)
    return f'<Relationships xmlns="{RELS}">{rows}</Relationships>'


def core(title: str) -> str:
    return (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></cp:coreProperties>'
    )


def docx() -> None:
    def paragraph(text: str, style: str = "", extra: str = "") -> str:
        properties = f'<w:pPr><w:pStyle w:val="{style}"/>{extra}</w:pPr>' if style or extra else ""
        return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells: str) -> str:
        return "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in cells) + "</w:tr>"

    item = '<w:numPr><w:numId w:val="1"/></w:numPr>'
    body = (
        paragraph("Hives", "Heading1")
        + paragraph("A hive has one queen.")
        + "<w:p><w:r><w:t>It hums </w:t></w:r><w:ins><w:r><w:t>softly</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>loudly</w:delText></w:r></w:del><w:r><w:t>.</w:t></w:r></w:p>"
        + paragraph("Tools", "Sub")
        + paragraph("smoker", "ListParagraph", item)
        + paragraph("veil", "ListParagraph", item)
        + "<w:tbl>"
        + row("month", "work")
        + row("May", "swarms")
        + row("August", "honey")
        + "</w:tbl>"
    )
    styles = (
        f'<w:styles {W}><w:style w:styleId="Heading1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:styleId="Heading2"><w:name w:val="heading 2"/></w:style>'
        '<w:style w:styleId="Sub"><w:name w:val="My heading"/><w:basedOn w:val="Heading2"/></w:style></w:styles>'
    )
    note = f'<w:footnotes {W}><w:footnote w:id="2">{paragraph("Seen in 2023.")}</w:footnote></w:footnotes>'
    archive(
        "bees.docx",
        {
            "_rels/.rels": relations(("r1", "officeDocument", "word/document.xml")),
            "docProps/core.xml": core("Bees"),
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": relations(
                ("r1", "styles", "styles.xml"), ("r2", "footnotes", "footnotes.xml")
            ),
            "word/styles.xml": styles,
            "word/footnotes.xml": note,
        },
    )


def pptx() -> None:
    def shape(role: str, *lines: str) -> str:
        text = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
        return (
            f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{role}"/></p:nvPr></p:nvSpPr>'
            f"<p:txBody>{text}</p:txBody></p:sp>"
        )

    def slide(*shapes: str, kind: str = "sld") -> str:
        return f"<p:{kind} {P}><p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld></p:{kind}>"

    ids = '<p:sldIdLst><p:sldId id="256" r:id="r2"/><p:sldId id="257" r:id="r1"/></p:sldIdLst>'
    archive(
        "garden.pptx",
        {
            "_rels/.rels": relations(("r1", "officeDocument", "ppt/presentation.xml")),
            "docProps/core.xml": core("The garden"),
            "ppt/presentation.xml": f"<p:presentation {P}>{ids}</p:presentation>",
            "ppt/_rels/presentation.xml.rels": relations(
                ("r1", "slide", "slides/slide1.xml"), ("r2", "slide", "slides/slide2.xml")
            ),
            # The second slide of the file is the first one of the presentation.
            "ppt/slides/slide2.xml": slide(
                shape("title", "Soil"),
                shape("body", "Feed it with compost.", "Water it."),
                shape("sldNum", "1"),
            ),
            "ppt/slides/_rels/slide2.xml.rels": relations(("r1", "notesSlide", "../notesSlides/notes1.xml")),
            "ppt/notesSlides/notes1.xml": slide(shape("body", "Show the worms."), kind="notes"),
            "ppt/slides/slide1.xml": slide(shape("title", "Seeds"), shape("body", "Sow in April.")),
        },
    )


def epub() -> None:
    def chapter(title: str, body: str) -> str:
        return (
            '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">'
            f"<head><title>{title}</title></head><body>{body}</body></html>"
        )

    archive(
        "voyage.epub",
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
            "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The Voyage</dc:title></metadata>'
            '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
            '<item id="b" href="text/b.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="a" href="text/a%20one.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/></spine></package>',
            "OEBPS/nav.xhtml": chapter("Contents", "<nav><ol><li>Departure</li></ol></nav>"),
            "OEBPS/text/a one.xhtml": chapter("x", "<h1>Departure</h1><p>We sailed at dawn.</p>"),
            "OEBPS/text/b.xhtml": chapter("Storm", "<p>The wind rose &amp; the mast broke.</p>"),
        },
    )


def pdf() -> None:
    """Three pages with a header, a footer, an outline and a hyphen at the end of a line."""
    pages = [
        [
            (18, 720, "1 Clouds"),
            (11, 690, "Cumulus clouds are white and flat at the bot-"),
            (11, 676, "tom. They grow on sunny days."),
            (11, 610, "Stratus is a grey layer."),
        ],
        [(18, 720, "2 Rain"), (11, 690, "Rain falls from nimbostratus for hours.")],
        [(11, 720, "Hail needs strong updrafts.")],
    ]
    objects = ["<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R >>", "", "", "", "", ""]
    kids = []
    for number, lines in enumerate(pages, start=1):
        shown = [(9, 770, "A weather handbook"), *lines, (9, 30, f"Page {number}")]
        stream = "".join(f"BT /F1 {size} Tf 72 {y} Td ({text}) Tj ET\n" for size, y, text in shown)
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}endstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(len(objects))
    objects[1] = f"<< /Type /Pages /Count 3 /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>"
    objects[2] = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects[3] = "<< /Type /Outlines /First 5 0 R /Last 6 0 R /Count 2 >>"
    objects[4] = f"<< /Title (Clouds) /Parent 4 0 R /Next 6 0 R /Dest [{kids[0]} 0 R /Fit] >>"
    objects[5] = f"<< /Title (Rain) /Parent 4 0 R /Prev 5 0 R /Dest [{kids[1]} 0 R /Fit] >>"
    objects.append("<< /Title (Weather) >>")
    write_pdf("weather.pdf", objects)


def scan() -> None:
    """A page without text, like one from a scanner."""
    write_pdf(
        "scan.pdf",
        [
            "<< /Type /Catalog /Pages 2 0 R >>",
            "<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] >>",
            "<< >>",
        ],
    )


def write_pdf(name: str, objects: list[str]) -> None:
    out, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    out += (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n"
        f"startxref\n{len(out)}\n%%EOF\n"
    ).encode()
    (FOLDER / name).write_bytes(out)


def encodings() -> None:
    text = "Caf\u00e9 cr\u00e8me \u00e0 cinq heures.\n"
    (FOLDER / "latin1.txt").write_bytes(text.encode("latin-1"))
    (FOLDER / "utf16.txt").write_bytes(text.encode("utf-16"))
    (FOLDER / "bom.md").write_bytes(f"# Caf\u00e9\r\n\r\n{text}".encode("utf-8-sig"))
    (FOLDER / "binary.txt").write_bytes(b"\0\1\2 no text")


if __name__ == "__main__":
    for make in (docx, pptx, epub, pdf, scan, encodings):
        make()
