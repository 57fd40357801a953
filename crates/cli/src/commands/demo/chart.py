import csv, struct, time, zlib

rows = [(row["month"], int(row["sales"])) for row in csv.DictReader(open("sales.csv"))]
time.sleep(3)  # long enough to be in the middle of it
total, best = sum(value for _, value in rows), max(rows, key=lambda row: row[1])
with open("report.md", "w") as report:
    report.write("# Sales\n\n")
    for month, value in rows:
        report.write(f"- {month}: {value} {'#' * value}\n")
    report.write(f"\nTotal: {total}. Best month: {best[0]}.\n")

width, height, bar = 240, 120, 240 // len(rows)
pixels = [[(255, 255, 255)] * width for _ in range(height)]
for place, (_, value) in enumerate(rows):
    for y in range(height - value * 3, height):
        for x in range(place * bar + 4, (place + 1) * bar - 4):
            pixels[y][x] = (40, 110, 200)


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


lines = b"".join(b"\0" + bytes(part for pixel in line for part in pixel) for line in pixels)
head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
with open("chart.png", "wb") as image:
    image.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
print(f"{len(rows)} months, {total} sold")
