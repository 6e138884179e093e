"""Breaking a text into lines."""


def wrap(text: str, width: int) -> list[str]:
    """Split a text at its spaces into lines of at most `width` characters.

    A word that is longer than `width` gets a line of its own.
    """
    lines = []
    line = ""
    for word in text.split():
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        lines.append(line)
    return lines
