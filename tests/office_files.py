"""Small files of the kinds that people have, made by hand or by the libraries that read them."""

import zipfile

HTML = (
    "<html><head><title>Shop</title><style>p {}</style></head><body><script>var x;</script>"
    "<h1>Opening hours</h1><p>We open at <b>nine</b>.</p><h2>Prices</h2>"
    "<table><tr><th>Item</th><th>Price</th></tr><tr><td>Rope</td><td>3</td></tr></table></body></html>"
)
RST = """Opening hours
=============

We open at nine.

Prices
------

.. code-block:: sh

   pay 3

.. include:: /etc/passwd
"""
CONTENT_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
    'wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)


def write_docx(path):
    def paragraph(text, style=None):
        look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{look}<w:r><w:t>{text}</w:t></w:r></w:p>"

    body = paragraph("Opening hours", "Heading1") + paragraph("We open at nine.")
    body += paragraph("Prices", "Heading2") + paragraph("A rope is 3.")
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        document = f'<?xml version="1.0"?><w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>'
        archive.writestr("word/document.xml", document)


def write_pptx(path):
    from pptx import Presentation

    deck = Presentation()
    for title, text in (("Opening hours", "We open at nine."), ("Prices", "A rope is 3.")):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    deck.save(path)


def write_xlsx(path):
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Prices"
    for row in (["Item", "Price"], ["Rope", 3], ["Hook", None]):
        book.active.append(row)
    other = book.create_sheet("Hours")
    for row in (["Day", "Opens"], ["Monday", "nine"]):
        other.append(row)
    book.save(path)


def write_pdf(path, text="We open at nine."):
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode() if text else b""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(content)
    content += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    content += b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % table
    path.write_bytes(content)
