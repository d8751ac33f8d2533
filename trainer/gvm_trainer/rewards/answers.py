r"""Where a text declares its final answer: \boxed{...}, "#### ..." or "the answer is ...".

Owns the extraction only; what the answer means is `notation`'s and `math`'s. A completion that declares
nothing has no answer, unless it is one bare line: an intermediate result that happens to be right is none.
"""

import re

_BOX = re.compile(r"\\f?boxed\b\s*|\\fbox\b\s*")
# What may stand between boxes that form one answer together, as in "\boxed{1} and \boxed{2}".
_BETWEEN_BOXES = re.compile(r"(?:[\s$,;]|\\[,;! ()\[\]]|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)*")
_HASHES = re.compile(r"####[ \t]*")
_ANSWER_IS = re.compile(r"\banswer\b[^.\n:=]{0,60}?(?:\bis\b|:|=)[:\s*]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)")
_LONGEST_BARE = 200  # characters; a longer single line is prose


def final_answer(completion: str) -> str | None:
    """The answer that a completion gives, or None where it gives none (or is cut off inside its last box)."""
    if _BOX.search(completion):
        return last_boxed(completion)
    return _announced(completion) or _bare(completion)


def expected_answer(answer: str) -> str:
    r"""The answer inside a data set's answer field, which may be a whole solution ("... #### 42")."""
    if _BOX.search(answer):
        return last_boxed(answer) or answer
    hashes = list(_HASHES.finditer(answer))
    return _line_from(answer, hashes[-1].end()) if hashes else answer


def last_boxed(text: str) -> str | None:
    r"""The content of the last box; adjacent boxes ("\boxed{1}, \boxed{2}") are joined by commas.

    Returns:
        None if there is no box or the last one never closes.
    """
    contents: list[str] = []
    start_of_next = None
    for box in reversed(list(_BOX.finditer(text))):
        content, end = _box_content(text, box.end())
        if content is None:
            break
        if start_of_next is not None and not _BETWEEN_BOXES.fullmatch(text, end, start_of_next):
            break
        contents.insert(0, content)
        start_of_next = box.start()
    return ", ".join(contents) or None


def _box_content(text: str, start: int) -> tuple[str | None, int]:
    """The braces' content from `start` on and the index behind; without braces (TeX allows it), a token."""
    if not text.startswith("{", start):
        token = re.compile(r"[^\s$.,]+").match(text, start)
        return (token[0], token.end()) if token else (None, start)
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start + 1 : match.start()], match.end()
    return None, start


def _announced(text: str) -> str | None:
    found = [*_HASHES.finditer(text), *_ANSWER_IS.finditer(text)]
    if not found:
        return None
    # The last announcement, by its end: "#### The answer is 42" announces twice.
    rest = _line_from(text, max(match.end() for match in found))
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()] if end else rest


def _line_from(text: str, start: int) -> str:
    return text[start:].partition("\n")[0]


def _bare(text: str) -> str | None:
    line = text.strip()
    return line if line and "\n" not in line and len(line) <= _LONGEST_BARE else None
