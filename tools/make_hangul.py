"""Draws the Hangul letters of sheets and plots: `crates/latent-formats/assets/hangul.png`.

`npm pack @expo-google-fonts/noto-sans-kr@0.4.3`, unpack it, `pip install pillow==13.0.0`, then
`python tools/make_hangul.py package/400Regular/NotoSansKR_400Regular.ttf`.

Letters stand as `latent-formats/src/text/hangul.rs` reads them: 112 in a row, each 14x16 pixels in four greys, black the empty
paper; first the 11,172 syllables from U+AC00 on, then the 51 single letters from U+3131 on.
"""
import pathlib
import struct
import sys
import zlib

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, COLUMNS, BASELINE, SIZE = 14, 16, 112, 13, 14
LETTERS = [chr(c) for c in [*range(0xAC00, 0xD7A4), *range(0x3131, 0x3164)]]
out = pathlib.Path(__file__).parent.parent / "crates" / "latent-formats" / "assets" / "hangul.png"
font = ImageFont.truetype(sys.argv[1], SIZE)

rows = -(-len(LETTERS) // COLUMNS)
sheet = Image.new("L", (COLUMNS * WIDTH, rows * HEIGHT), 0)
for place, letter in enumerate(LETTERS):
    cell = Image.new("L", (WIDTH, HEIGHT), 0)
    left = (WIDTH - font.getlength(letter)) / 2
    ImageDraw.Draw(cell).text((left, BASELINE), letter, font=font, fill=255, anchor="ls")
    sheet.paste(cell, (place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT))

# Two bits a pixel, which Pillow does not write for greys.
lines = bytearray()
for y in range(sheet.height):
    grey = [round(value / 85) for value in sheet.crop((0, y, sheet.width, y + 1)).tobytes()]
    lines.append(0)
    lines += bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(grey)] * 4))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


head = struct.pack(">IIBBBBB", sheet.width, sheet.height, 2, 0, 0, 0, 0)
out.parent.mkdir(exist_ok=True)
out.write_bytes(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(lines), 9)) + chunk(b"IEND", b"")
)
