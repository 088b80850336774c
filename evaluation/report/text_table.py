"""A table of texts, and how figures are written in it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Hold a table of texts; `**text**` is bold."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown."""
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in [self.columns, *self.rows]]
        lines = ["| " + " | ".join(row) + " |" for row in escaped]
        lines.insert(1, "|" + "---|" * len(self.columns))
        parts = [f"### {self.title}", "\n".join(lines), self.note]
        return "\n\n".join(part for part in parts if part) + "\n"


def short(value: float) -> str:
    """Write three decimals without the leading zero, as the field's tables do."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def figure(value: float) -> str:
    """Write a figure of either sign; NaN becomes a dash."""
    return "–" if value != value else ("−" if value < 0 else "") + short(abs(value))


def rate(fmr: float | None) -> str:
    """Write the false match rate that set a threshold, or that none did."""
    return "fixed threshold" if fmr is None else f"{fmr:g}"


def at(fmr: float | None) -> str:
    """Say at what threshold figures were measured, behind other words."""
    return f"at {'a ' if fmr is None else 'FMR '}{rate(fmr)}"


def signed(value: float) -> str:
    """Write a difference with its sign; NaN becomes a dash."""
    if value != value:
        return "–"
    return ("−" if value < 0 else "+") + short(abs(value))
