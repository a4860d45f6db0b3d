"""A chart of bars as SVG, readable on light and dark paper, without a library."""

from xml.sax.saxutils import escape

COLOURS = {"cosmount": "#2563eb", "bare": "#64748b", "curl": "#94a3b8", "sdk": "#cbd5e1", "s3fs": "#d97706", "rclone": "#b45309", "disk": "#059669"}
WIDTH, PANEL, LABEL, BAR, GAP = 920, 450, 100, 13, 10


def chart(title, note, panels):
    """`panels`: (title, groups), a group being (its label, bars), a bar (contestant, its title, value or None, text)."""
    columns, heights = ([], []), [64, 64]
    for panel_title, groups in panels:
        side = 0 if heights[0] <= heights[1] else 1
        text, height = panel(panel_title, groups)
        columns[side].append(f'<g transform="translate({10 + side * (PANEL + 10)},{heights[side]})">{text}</g>')
        heights[side] += height + 16
    height = max(heights) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui,sans-serif" font-size="11" role="img">\n'
        f'<title>{escape(title)}</title>\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        f'<text x="10" y="24" font-size="17" font-weight="600" fill="#0f172a">{escape(title)}</text>\n'
        f'<text x="10" y="42" fill="#475569">{escape(note)}</text>\n' + "\n".join(columns[0] + columns[1]) + "\n</svg>\n"
    )


def panel(title, groups):
    most = max((bar[2] for _, bars in groups for bar in bars if bar[2]), default=1)
    room = PANEL - LABEL - 150
    out, y = [f'<text y="12" font-size="13" font-weight="600" fill="#0f172a">{escape(title)}</text>'], 22
    for label, bars in groups:
        out.append(f'<text y="{y + BAR - 3}" fill="#475569">{escape(label)}</text>')
        for contestant, name, value, text in bars:
            length = max(1.5, room * value / most) if value else 0
            out.append(f'<rect x="{LABEL - 44}" y="{y}" width="{length:.1f}" height="{BAR - 2}" rx="2" fill="{COLOURS[contestant]}"/>')
            weight = ' font-weight="600"' if contestant == "cosmount" else ""
            out.append(f'<text x="{LABEL - 38 + length:.1f}" y="{y + BAR - 3}" fill="#0f172a"{weight}>{escape(f"{name} {text}")}</text>')
            y += BAR
        y += GAP
    return "\n".join(out), y
