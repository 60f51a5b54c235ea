"""One spelling for the many spellings of the same LaTeX.

`normalise` changes notation only, never value: `\\dfrac12` and `\\frac{1}{2}`, `−` and `-`, `\\left(` and `(`.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-",
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
        "±": r"\pm ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "°": r"^\circ ", "′": "'", "ℝ": r"\mathbb{R}",
        "√": " sqrt ", "∛": " cbrt ", "≈": r"\approx ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
        "λ": r"\lambda ",
        "“": '"', "”": '"', "‘": "'", "’": "'", "，": ",", "（": "(", "）": ")", "：": ":", "。": ".", "％": "%",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\n": " ", "\t": " ", "\r": " ",
    }
)  # fmt: skip
_INVISIBLE = {"Cf", "Cc", "Cs", "Co"}

#: Functions that people write without a backslash.
_NAMES = (
    r"(?:arc)?(?:sin|cos|tan|cot|csc)h?|arcsec|sec(?=\s?[(^]|\s(?:[t-z]|\\[a-z]{2,6})(?![A-Za-z]))|ln|lg|log|exp|sqrt|"
    r"(?:max|min|gcd|lcm|det)(?=\s?\()"
)
#: Not inside a word; behind one letter only before a bracket: xcos(x).
_START = r"(?:(?<![\\A-Za-z])|(?<=(?<![\\A-Za-z])[b-zB-Z])(?=[a-z]+\s?\())"
#: Spreadsheets and some languages begin a function with a capital.
_CAPITALISED = re.compile(r"(?<![\\A-Za-z])(?:Ln|Log|Exp|Sin|Cos|Tan|Sqrt)(?=\s?[({])")

#: (pattern, replacement), applied in this order; each is linear.
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|noindent|centering)(?![A-Za-z])", ""),
        (r"\\(?:left|right|[bB]ig{1,2}[lrm]?)(?![A-Za-z])\.?", ""),
        (r"\\(?:math(?:rm|bf|it|sf)|text(?:bf|it|rm|normal|sf|tt)|[mh]box|operatorname\*?)(?![A-Za-z])", r"\\text"),
        (r"\\(?:bm|boldsymbol|rm|bf|it)(?![A-Za-z])", r"\\text"),
        (r"\\(?:d|t|c)frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:d|t)binom(?![A-Za-z])", r"\\binom"),
        (r"(?<!\\)\\!(?: |$)?|\\phantom\{[^{}]{0,20}\}", ""),
        (r"(?<!\\)\\(?:,|;|:|>| )|\\(?:quad|qquad|enspace|thinspace|hspace\*?\{[^{}]{0,20}\})|~", " "),
        (r"\{,\}", ","),
        (r"\\(?:textcolor|color)\s?\{[a-zA-Z]{1,20}\}", ""),
        (r"\\(?:boxed|fbox|underline|mathop|mathord|bar\s?(?=\{\\text))\s?(?=\{)", ""),
        (r"\\varnothing|\\O(?![A-Za-z])|\\\{\s?\\\}|\\text\{\s?(?:empty set|the empty set)\s?\}", r"\\emptyset"),
        (r"\\leqslant|\\le(?![A-Za-z])|<=", r"\\leq "),
        (r"\\geqslant|\\ge(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\ne(?![A-Za-z])|!=", r"\\neq "),
        (r"\\(?:degree|deg)(?![A-Za-z])", r"^\\circ "),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:lbrack)(?![A-Za-z])", "["),
        (r"\\(?:rbrack)(?![A-Za-z])", "]"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:ldots|cdots|dotsc|dots)(?![A-Za-z])|\.\.\.|…", r"\\dots "),
        (r"\\(?:mathbb|Bbb)\s?\{?([RQZNC])\}?", r"\\mathbb{\1}"),
        (r"\*\*", "^"),
        (r"(?:\\text\s?\{\s?)?\b[Aa]ll real(?:s| numbers)(?:\s?\})?", r"\\mathbb{R}"),
        (r"(?:\\text\s?\{\s?)?\b[Aa]ll integers(?:\s?\})?", r"\\mathbb{Z}"),
        (r"(?<=\d)(?:\^\s?)?(?:\{\s?\\text\s?\{(?:st|nd|rd|th)\s?\}\s?\}|\\text\s?\{(?:st|nd|rd|th)\s?\}|"
         r"\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)(?![A-Za-z]))", ""),
        (r"\\text\s?\{\s?([eijk]|[-+]?\d[\d.,]*)\s?\}", r" \1"),
        (r"\\(?:hat|vec)\s?\{?\s?(?:\\text\s?\{)?([A-Za-z])\}{0,2}", r"\1"),
        (r"\\overline\s?\{([A-Z]{2,3})\}", r"\1"),
        (r"\{?\s?([\w+-]{1,20})\s?\\choose\s?([\w+-]{1,20})\s?\}?", r"\\binom{\1}{\2}"),
        (r"\\therefore(?![A-Za-z])", ""),
        (r"^(?:approx(?:imately|\.)?|about|around|roughly)\s?(?=[-\d\\.$])", r"\\approx "),
        (r"(?<![A-Za-z\\])(?:np|numpy|math|sympy)\.(?=[a-z])", ""),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"([-+,(\[<>]\s?)(?:oo|inf|infinity)(?![A-Za-z])", r"\1\\infty "),
        (r"(?<![\\A-Za-z])[dtc]?frac(?=\s?\{)", r"\\frac"),
        (rf"\\text\s?\{{\s?({_NAMES})\s?\}}", r"\\\1 "),
        (r"(?<![\\A-Za-z])a(sin|cos|tan)(?=h?\s?\()", r"\\arc\1"),
        (r"(?<![\\A-Za-z])cbrt(?=\s?\()", r"\\sqrt[3]"),
        (r"(?<![\\A-Za-z])cbrt\s?(\d+(?:\.\d+)?)", r"\\sqrt[3]{\1}"),
        (rf"{_START}sqrt\s?(\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
        (rf"{_START}log(\d+)(?=\s?\()", r"\\log_{\1}"),
        (rf"{_START}(ln|log|sin|cos|tan)\s?(\d+(?:\.\d+)?)(?![\d.A-Za-z^\\({{])", r"\\\1(\2)"),
        (r"(?<![\\A-Za-z{])(theta|phi|lambda)(?![A-Za-z])", r"\\\1 "),
        (rf"{_START}({_NAMES})(?:(?![A-Za-z])|(?=[xy](?![A-Za-z])))", r"\\\1 "),
        (r"\\lg(?![A-Za-z])", r"\\log_{10} "),
        (r"\\log\s?_\s?(?:e|\{\s?e\s?\})(?![A-Za-z])", r"\\ln "),
        (r"\^\s?(?:\{\s?(-?\d*)\.(\d)\s?\}|(-?\d*)\.(\d)(?![\dA-Za-z.{]))", r"^{\\frac{\1\2\3\4}{10}}"),
        (r"\\frac\s?([0-9a-zA-Z])\s?([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s?(\\pi|\\theta)\s?([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s?([0-9a-zA-Z])\s?\{", r"\\frac{\1}{"),
        (r"\\sqrt\s?(\[\w{1,9}\])?\s?([0-9a-zA-Z])", r"\\sqrt\1{\2}"),
        (r"\^\s?\{\s?([0-9a-zA-Z])\s?\}", r"^\1"),
        (r"_\s?\{\s?([0-9a-zA-Z])\s?\}", r"_\1"),
        (r"\^\s?\{\s?\\circ\s?\}", r"^\\circ"),
        (r"\s+", " "),
    )
)  # fmt: skip
_FRAC_TAIL = re.compile(r"(\\frac\{[^{}]{1,200}\})\s?([0-9a-zA-Z])")
_SPACE = re.compile(r"(?<!\d) +| +(?!\d)")
_FRENCH_INTERVAL = re.compile(r"([\[\]])([^\[\](){}]{1,100},[^\[\](){}]{1,100})([\[\]])")
#: Separators of thousands that no list has: 1{,}000, 1,\!000, 1\,000.
_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:(?:\{,\}|,\\!|\\,)\d{3})++(?!\d|,\d{3}(?!\d))")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"), ("**", "**"))
_TRAILING = " .,;:。"
_MAX_LAYERS = 20
_ROUND_ARGUMENT = re.compile(r"(\\sqrt(?:\s?\[[^\[\]]{1,20}\])?|\\exp|(?<![\\A-Za-z])(?:abs|floor|ceil))\s{0,2}(?=\()")
_WRITTEN = {
    "\\exp": ("e^{", "}"), "abs": ("|", "|"), "floor": (r"\lfloor ", r"\rfloor "), "ceil": (r"\lceil ", r"\rceil ")
}  # fmt: skip
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm|bf)\s?(?=\{)")
_IS_FORMULA = re.compile(r"[\d\\=+*/^<>-]")
_ELEMENT_OF = re.compile(r"\\in(?![A-Za-z]) ?")
_ROW_GAP = re.compile(r"\\\\\s?\[\s?-?[\d.]{1,9}\s?(?:pt|mm|cm|em|ex)\s?\]")
_MATRIX_BEGIN = re.compile(r"[(\[]?\\begin\{(?:array|matrix|[pb]matrix|smallmatrix)\}(?:\{[clr|@{}!\s]{0,40}\})?")
_MATRIX_END = re.compile(r"\\end\{(?:array|matrix|[pb]matrix|smallmatrix)\}[)\]]?")


def normalise(text: str) -> str:
    """The answer in one spelling, white space kept single. Never fails; takes time linear in the text."""
    text = _plain_signs(text).strip()
    text = _CAPITALISED.sub(lambda name: name[0].lower(), _unwrap(text))
    if text.startswith(("\\b", "\\mathbf")):
        text = _unbold(text)
    if "{,}" in text or ",\\!" in text or "\\," in text:
        text = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _round_to_curly(text) if "(" in text else text
    text = _FRAC_TAIL.sub(r"\1{\2}", text)
    if "\\in" in text:
        text = _ELEMENT_OF.sub(r"\\in ", text)
    if "\\begin" in text:
        text = _ROW_GAP.sub(r"\\\\", text)
        text = _MATRIX_BEGIN.sub(r"\\begin{pmatrix}", text)
        text = _MATRIX_END.sub(r"\\end{pmatrix}", text)
    french = _FRENCH_INTERVAL.fullmatch(text) if "[" in text or "]" in text else None
    if french:
        # ]0,1] is (0,1].
        text = ("[" if french[1] == "[" else "(") + french[2] + ("]" if french[3] == "]" else ")")
    return _strip_ends(_strip_braces(_strip_ends(text)))


def _round_to_curly(text: str) -> str:
    """`\\sqrt(3)` → `\\sqrt{3}`, `\\exp(2)` → `e^{2}`, `abs(x)` → `|x|`."""
    position = 0
    for _ in range(_MAX_LAYERS):
        match = _ROUND_ARGUMENT.search(text, position)
        if not match:
            break
        position = match.end()
        end = closing_bracket(text, position)
        if end:
            name = match[1].rstrip()
            before, after = _WRITTEN.get(name, (name + "{", "}"))
            text = f"{text[: match.start()]}{before}{text[position + 1 : end - 1]}{after}{text[end:]}"
            position = match.start() + len(before)
    return text


def compact(text: str) -> str:
    """A normalised answer without white space and without the braces and words that only set type.

    Space between digits stays: 1 1/2 is not 11/2.
    """
    text = _SPACE.sub("", text.replace("\\text", ""))
    return re.sub(r"\{([0-9a-zA-Z]+)\}(?![\^_{])", r"{\1}", text)


def _plain_signs(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_SIGNS)
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_plain_sign, text))


def _plain_sign(sign: str) -> str:
    if " " <= sign <= "~":
        return sign
    if unicodedata.category(sign) in _INVISIBLE:
        return ""
    if sign in "⁰¹²³⁴⁵⁶⁷⁸⁹":
        return f"^{unicodedata.digit(sign)}"
    folded = unicodedata.normalize("NFKC", sign)
    if "⁄" in folded:  # ½ and its like
        top, _, bottom = folded.partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}" if bottom else folded
    if folded.isdigit() and len(folded) == 1:
        return str(unicodedata.digit(folded))
    return folded


def _unwrap(text: str) -> str:
    changed = True
    while changed:
        changed = False
        text = _strip_ends(text)
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            if len(text) > len(opening) + len(closing) - 1 and text.startswith(opening) and text.endswith(closing):
                if opening in inner or closing in inner:
                    continue
                text, changed = inner, True
    return text.strip("$") if text.count("$") == 1 else text


def _unbold(text: str) -> str:
    """Takes off bold type around a whole formula; names and words keep it."""
    for _ in range(_MAX_LAYERS):
        bold = _BOLD.match(text)
        if not bold or closing_bracket(text, bold.end()) != len(text) or not _IS_FORMULA.search(text, bold.end()):
            break
        text = text[bold.end() + 1 : -1].strip()
    return text


def _strip_ends(text: str) -> str:
    stripped = text.strip().rstrip(_TRAILING)
    # `5!` and `10\%` end in signs that matter: only punctuation is removed.
    return stripped[:-1].rstrip() if stripped.endswith("\\") and not stripped.endswith("\\\\") else stripped


def _strip_braces(text: str) -> str:
    """Takes off braces that hold the whole text."""
    for _ in range(_MAX_LAYERS):
        if not text.startswith("{") or text.endswith("\\}") or closing_bracket(text, 0) != len(text):
            break
        text = text[1:-1].strip()
    return text


def closing_bracket(text: str, start: int) -> int:
    """The index behind the bracket that closes the bracket at `start`; 0 where it stays open."""
    opening = text[start]
    closing = {"{": "}", "(": ")", "[": "]"}[opening]
    depth = 0
    for match in re.finditer(f"[{re.escape(opening + closing)}]", text[start:]):
        depth += 1 if match.group() == opening else -1
        if depth == 0:
            return start + match.end()
    return 0
